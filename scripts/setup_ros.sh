#!/usr/bin/env bash
# ROS 1 for this checkout: rospy, messages, master and roslaunch from Debian packages, unpacked below .venv/ros1.
# Usage: scripts/setup_ros.sh [--optional]
# Needs neither root nor a ROS installation and changes nothing outside the checkout: packages are downloaded and
# unpacked, not installed, and a .pth file shows them to the environment's Python. With --optional, a machine where this
# cannot work gets one line that says so and exit code 0.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

optional=
case ${1:-} in
    --optional) optional=1 ;;
    "") ;;
    *) fail "unknown argument $1. Usage: scripts/setup_ros.sh [--optional]" ;;
esac

# stop REASON: ROS cannot be had here; what needs it is skipped (--optional) or this fails.
stop() {
    if [[ -n $optional ]]; then
        say "without ROS 1: $1. Tests that need it are skipped."
        exit 0
    fi
    fail "$1"
}

python=$root/.venv/bin/python
target=$root/.venv/ros1
modules=usr/lib/python3/dist-packages
# What Debian and Ubuntu call them; all of them are plain Python.
names=(rospy rosmaster roslaunch roslib rosgraph rosgraph-msgs roscpp-msg rosparam rosclean rosnode rostopic rosservice
    rosmsg std-msgs std-srvs sensor-msgs geometry-msgs genpy genmsg catkin catkin-pkg rospkg defusedxml pyparsing)
packages=("${names[@]/#/python3-}")
commands=(roscore roslaunch rosmaster rosmsg rosnode rosparam rosservice rostopic)

runs "$python" --version || fail "no environment in .venv: run make setup first"

# The copy is up to date when it was made by this version of this script, at this place, for this interpreter.
stamp=$target/.stamp-$({ cat "${BASH_SOURCE[0]}"; echo "$target"; } | cksum | tr ' ' -)
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
if [[ -e $stamp && -e $site/zz_ros1.pth ]]; then
    if [[ -z $optional ]]; then say "ROS 1 is ready in .venv/ros1"; fi
    exit 0
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    stop "its packages come from Debian or Ubuntu, and this system has no apt-get"
fi

mkdir -p .cache/ros
if command -v flock >/dev/null; then
    exec 8>.cache/ros/lock
    flock 8
    if [[ -e $stamp && -e $site/zz_ros1.pth ]]; then exit 0; fi
fi
say "getting ROS 1 (${#packages[@]} small Debian packages, unpacked in .venv/ros1)"
work=$root/.cache/ros/work
rm -rf "$work"
mkdir -p "$work/debs" "$work/lists/partial" "$work/cache/archives/partial"
log=$root/.cache/ros/apt.log
apt=(apt-get -q -o "APT::Sandbox::User=$(id -un)" -o Acquire::Retries=1 -o Acquire::http::Timeout=30)

download() { (cd "$work/debs" && "${apt[@]}" "$@" download "${packages[@]}") >>"$log" 2>&1 </dev/null; }

: >"$log"
if ! download; then
    # No package lists, or old ones: fetch them for this once, beside the system's own.
    private=(-o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache")
    "${apt[@]}" "${private[@]}" update >>"$log" 2>&1 </dev/null || true
    rm -f "$work"/debs/*
    download "${private[@]}" || stop "apt-get download failed (needs Debian 12 or alike, and a network):
$(tail -n 3 "$log")"
fi
for package in "$work"/debs/*.deb; do dpkg-deb -x "$package" "$work/ros1"; done
# Metadata of packages that pip did not install would show up in every list of versions.
rm -rf "$work/ros1/$modules"/*.egg-info "$work/ros1/$modules"/*.dist-info "$work/ros1/usr/share/doc"
"$python" -W ignore -m compileall -q "$work/ros1/$modules" >/dev/null || true

# Debian's asks for rosout, which collects the logs of all nodes and is a compiled program; nothing here needs it.
echo '<launch><group ns="/"><param name="rosdistro" value="noetic"/><param name="rosversion" value="1"/>' \
    '</group></launch>' >"$work/ros1/etc/ros/roscore.xml"
# netifaces is compiled, for another Python; ROS only wants this machine's IPv4 addresses from it.
cat >"$work/ros1/$modules/netifaces.py" <<'PYTHON'
"""Stand-in for netifaces: the IPv4 addresses of this machine (Linux)."""
import fcntl
import socket
import struct

AF_INET, AF_INET6 = int(socket.AF_INET), int(socket.AF_INET6)


def interfaces():
    return [name for _, name in socket.if_nameindex()]


def ifaddresses(name):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            found = fcntl.ioctl(probe, 0x8915, struct.pack("256s", name.encode()[:15]))  # SIOCGIFADDR
        except OSError:
            return {}
    return {AF_INET: [{"addr": socket.inet_ntoa(found[20:24])}]}
PYTHON

rm -rf "$target"
mv "$work/ros1" "$target"
# The vendor's messages are ours to bring: see rise_robot/ros/share.
printf '%s\n' "$target/$modules" "$root/rise_robot/ros/share" >"$site/zz_ros1.pth"
for name in "${commands[@]}"; do
    # They look for their settings in /etc; rostopic wants rosbag for bag files alone, which needs compiled modules.
    {
        echo "#!$python"
        echo 'import os, sys, types'
        echo "os.environ.setdefault('ROS_ETC_DIR', '$target/etc/ros')"
        echo "os.environ.setdefault('ROS_PACKAGE_PATH', '$root/rise_robot/ros:$root/rise_robot/ros/share')"
        echo 'sys.modules["rosbag"] = types.SimpleNamespace(ROSBagException=type("ROSBagException", (Exception,), {}))'
        tail -n +2 "$target/usr/bin/$name"
    } >".venv/bin/$name"
    chmod +x ".venv/bin/$name"
done
check='import rospy, rosmaster, roslaunch, rosgraph, rosnode, rostopic, rosservice, genpy.dynamic
rosgraph.network.get_local_addresses()
import geometry_msgs.msg, sensor_msgs.msg, std_msgs.msg, std_srvs.srv'
if ! "$python" -W ignore -c "$check" >>"$log" 2>&1; then
    rm -rf "$target" "$site/zz_ros1.pth" "${commands[@]/#/.venv/bin/}"
    stop "the packages of this system do not work with Python 3.12:
$(tail -n 3 "$log")"
fi
rm -rf "$work"
touch "$stamp"
say "ROS 1 is ready in .venv/ros1"
