"""π0 and π0.5 on the robot itself: model, processing, engines, simulation, serving and command line."""
