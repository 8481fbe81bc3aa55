"""What a robot's computer says about itself: power mode, clocks, rails, heat, load, boot slots.

Everything is read from files below a root folder, so that the recorded tree of a real board is test data. Indices of
thermal zones and hwmon folders change at every boot: files are found by what they call themselves.
"""
