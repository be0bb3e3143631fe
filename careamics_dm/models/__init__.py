"""Restoration models: LightningModules on one base, a U-Net and the blind-spot masking.

Nothing is imported here, so that reading the package's name costs no import of torch.
"""
