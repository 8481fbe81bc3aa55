#!/bin/sh
# Handler `post-install` of RAUC: the operating system was written to the other slot, which starts next.
#
# system.conf:
#   [handlers]
#   post-install=/usr/lib/rauc/pi0-edge-post-install.sh
#
# The releases of pi0-edge lie in /var/lib/pi0-edge and /opt/pi0-edge, on a partition that both slots of the system share.
# What remains: the settings of this robot belong into the new system; a new system that could not start a release is
# refused; and a RAUC bundle may bring a release for the new system in its folder pi0-edge/.
set -eu

root=${PI0_EDGE_ROOT:-}
point=$(mktemp -d)
mounted=
trap '[ -z "$mounted" ] || umount "$point"; rmdir "$point"' EXIT

for number in $RAUC_TARGET_SLOTS; do
    eval "class=\$RAUC_SLOT_CLASS_$number device=\$RAUC_SLOT_DEVICE_$number name=\$RAUC_SLOT_NAME_$number"
    [ "$class" = rootfs ] || continue
    mount "$device" "$point"
    mounted=1
    for needed in usr/lib/pi0-edge/main.py etc/systemd/system/pi0-edge-policy.service; do
        if [ ! -e "$point/$needed" ]; then
            echo "$name has no /$needed: run \`pi0-edge robot provision\` on the machine that the image is made of" >&2
            exit 1
        fi
    done
    mkdir -p "$point/etc/pi0-edge"
    cp -p "$root/etc/pi0-edge/robot.json" "$point/etc/pi0-edge/robot.json.new"
    sync "$point/etc/pi0-edge/robot.json.new"
    mv "$point/etc/pi0-edge/robot.json.new" "$point/etc/pi0-edge/robot.json"
    sync "$point/etc/pi0-edge"
    umount "$point"
    mounted=
    echo "$name has the settings of this robot"
done

# In the same transaction as the system, and committed: a release on trial would end with the restart.
if [ -d "${RAUC_BUNDLE_MOUNT_POINT:-}/pi0-edge" ]; then
    "${PI0_EDGE:-pi0-edge}" flash --from "$RAUC_BUNDLE_MOUNT_POINT/pi0-edge"
fi
