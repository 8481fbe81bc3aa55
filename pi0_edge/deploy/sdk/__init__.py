"""The SDK as a robot gets it: a folder with wheels and the list that names each of them by its SHA-256.

`targets` says which robots there are, `resolution` finds versions that fit together for one of them, `folder` fetches
the wheels, and `lock` is the list. On the robot, `pi0_edge.deploy.installer.environments` makes a Python environment.
"""
