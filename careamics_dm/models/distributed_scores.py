"""Scores of validation and test, counted by each process and then brought together."""

from collections.abc import Iterable, Mapping
from math import nan

import lightning as L
from torch import Tensor

from careamics_dm.evaluation.metrics import Scores
from careamics_dm.prediction.stitching import crop_in_tile
from careamics_dm.sources.ranks import gather


class ImageScores:
    """Scores of each image of a test, and the loss; a process may have seen no image at all.

    ``after`` (restored images) and ``before`` (input with as many channels as the targets) map the
    image's number to `Scores`; ``gathered`` says whether they are those of all processes.
    """

    def __init__(self) -> None:
        self.after: dict[int, Scores] = {}
        self.before: dict[int, Scores] = {}
        self.gathered = False
        self._losses: list[tuple[Tensor, int]] = []
        self._n_images = 0

    def add_loss(self, loss: Tensor, n_images: int) -> None:
        """Count the mean loss of a batch of ``n_images``."""
        self._losses.append((loss.detach(), n_images))

    def add(self, result: Mapping[str, Tensor], rank: int, n_processes: int) -> None:
        """Count a batch as of `RestorationModule.test_step`, of process ``rank`` of so many.

        Without "region" each image is one of its own, dealt out to processes one by one.
        """
        target = result["target"]
        if "region" in result:
            places = [(row[0], crop_in_tile(row)) for row in result["region"].tolist()]
        else:
            first, self._n_images = self._n_images, self._n_images + len(target)
            places = [(rank + n_processes * n, ()) for n in range(first, self._n_images)]
        for scores, image in ((self.after, result["prediction"]), (self.before, result["image"])):
            for tile, (key, inner) in enumerate(places if image.shape == target.shape else []):
                crop = (slice(tile, tile + 1), slice(None), *inner)
                scores.setdefault(key, Scores(target.shape[1])).add(target[crop], image[crop])

    def gather(self) -> dict[str, float]:
        """Join the scores of all processes; returns the mean loss, if any, and of each score."""
        sums = [(float(loss) * n, n) for loss, n in self._losses]
        parts = gather((sums, self.after, self.before))
        self.gathered = True
        self.after = merged(part[1] for part in parts)
        self.before = merged(part[2] for part in parts)
        sums = [one for part in parts for one in part[0]]
        loss = {"loss": sum(total for total, _ in sums) / sum(n for _, n in sums)} if sums else {}
        return loss | mean_over_images(self.after)


def merged(parts: Iterable[Mapping[int, Scores]]) -> dict[int, Scores]:
    """Merge the scores of each key, such as an image's number, into new ones; keys in order."""
    found: dict[int, Scores] = {}
    for part in parts:
        for key, scores in part.items():
            found.setdefault(key, Scores(scores.n_channels)).merge(scores)
    return dict(sorted(found.items()))


def log_gathered(module: L.LightningModule, prefix: str, values: Mapping[str, float]) -> None:
    """Log values that are the same on all processes."""
    for name, value in values.items():
        # rank_zero_only keeps Lightning from averaging, which would hang where a process has no
        # image to test; sync_dist avoids a warning about that.
        module.log(f"{prefix}_{name}", value, sync_dist=True, rank_zero_only=True)


def mean_over_channels(scores: Scores) -> dict[str, float]:
    """Average each score over channels; of several channels, list each as well ("psnr_0")."""
    found = {}
    for name, values in scores.as_dict().items():
        found[name] = sum(values) / len(values)
        if len(values) > 1:
            found |= {f"{name}_{channel}": value for channel, value in enumerate(values)}
    return found


def mean_over_images(scores: Mapping[int, Scores]) -> dict[str, float]:
    """Average each score over channels, without those of a constant target, then over images."""
    found: dict[str, list[float]] = {}
    for image in scores.values():
        scored = [c for c, constant in enumerate(image.constant) if not constant]
        for name, values in image.as_dict().items():
            means = found.setdefault(name, [])
            if scored:
                means.append(sum(values[c] for c in scored) / len(scored))
    return {name: sum(means) / len(means) if means else nan for name, means in found.items()}
