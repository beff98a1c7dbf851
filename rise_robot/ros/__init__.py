"""ROS 1: a dual Piper behind the `Driver` protocol, and the work cell served as one. ROS itself: `make ros`."""
