// What ImageJ sees of the TIFF files in a folder; see results_in_viewers.py.
setBatchMode(true);
folder = getArgument();
names = getFileList(folder);
for (i = 0; i < names.length; i++) {
    // Of 64 bits it opens no stacks, and waits for a click.
    if (!endsWith(names[i], ".tif") || matches(names[i], ".*float64-source.*")) continue;
    open(folder + names[i]);
    getDimensions(width, height, channels, slices, frames);
    getVoxelSize(dx, dy, dz, unit);
    mode = "one colour";
    if (is("composite")) Stack.getDisplayMode(mode);
    line = names[i] + "\n  " + bitDepth() + " bits, X " + width + " Y " + height;
    line = line + " C " + channels + " Z " + slices + " T " + frames + ", " + mode;
    line = line + "\n  voxel " + dx + " x " + dy + " x " + dz + " " + unit;
    line = line + ", frame interval " + Stack.getFrameInterval();
    for (c = 1; c <= channels; c++) {
        if (channels > 1) Stack.setChannel(c);
        getMinAndMax(low, high);
        line = line + "\n  channel " + c + ": " + low + " to " + high + ", label '" + getInfo("slice.label") + "'";
    }
    print(line);
    close();
}
