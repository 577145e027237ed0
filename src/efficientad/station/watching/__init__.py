"""The drift watch: do parts still look as those of the calibration?"""
