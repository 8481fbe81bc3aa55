#!/bin/bash
# Builds a bootable aarch64 Debian machine, a stand-in for a Jetson: `aarch64_image.sh FOLDER`, as root.
#
# FOLDER gets disk.img (ext4, sparse), vmlinuz, initrd.img, id_ed25519 (a throw-away key of root) and known_hosts. All of
# it comes from the Debian packages that this machine's own sources name. Debian 12: Python 3.11, systemd 252, glibc 2.36.
set -euo pipefail
folder=$1
suite=bookworm size=8G
packages="linux-image-cloud-arm64 initramfs-tools systemd-sysv udev dbus openssh-server rsync
    python3 python3-venv openssl iproute2 procps kmod e2fsprogs"

# Programs of another processor run through the kernel's binfmt_misc; where no systemd runs, nobody has registered qemu.
binfmt=/proc/sys/fs/binfmt_misc
mountpoint -q $binfmt || mount -t binfmt_misc binfmt_misc $binfmt
[[ -e $binfmt/qemu-aarch64 ]] || cat /usr/lib/binfmt.d/qemu-aarch64.conf >$binfmt/register

root=$(mktemp -d "$folder/root.XXXXXX")
trap 'rm -rf --one-file-system "$root"' EXIT
chmod 755 "$root"
rm -f "$folder"/id_ed25519*
ssh-keygen -q -t ed25519 -N "" -C "aarch64 machine" -f "$folder/id_ed25519"

sources=/etc/apt/sources.list.d/debian.sources
[[ -e $sources ]] || sources=/etc/apt/sources.list
# Under emulation an initramfs of all modules takes six minutes; the machine has one disk and one file system.
few='mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
    printf "MODULES=list\nCOMPRESS=gzip\n" >"$1/etc/initramfs-tools/conf.d/edge"
    printf "virtio_pci\nvirtio_blk\next4\ncrc32c_generic\n" >"$1/usr/share/initramfs-tools/modules.d/edge"'
mmdebstrap --quiet --mode=root --architectures=arm64 --variant=minbase --include="$(echo $packages | tr ' ' ,)" \
    --aptopt='Acquire::Check-Valid-Until "false"' --dpkgopt=force-unsafe-io --essential-hook="$few" \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' "$suite" "$root" "$sources"

echo robot >"$root/etc/hostname"
printf '127.0.0.1 localhost robot\n' >"$root/etc/hosts"
echo '/dev/vda / ext4 noatime,errors=remount-ro 0 1' >"$root/etc/fstab"
printf '[Match]\nName=e*\n[Network]\nDHCP=ipv4\n' >"$root/etc/systemd/network/20-dhcp.network"
mkdir -p "$root/etc/systemd/journald.conf.d" "$root/etc/ssh/sshd_config.d"
printf '[Journal]\nStorage=persistent\nSystemMaxUse=32M\n' >"$root/etc/systemd/journald.conf.d/edge.conf"
printf 'PasswordAuthentication no\nUseDNS no\nMaxStartups 100\n' >"$root/etc/ssh/sshd_config.d/edge.conf"
chroot "$root" systemctl -q enable systemd-networkd ssh
chroot "$root" systemctl -q mask systemd-networkd-wait-online apt-daily.timer apt-daily-upgrade.timer \
    e2scrub_all.timer dpkg-db-backup.timer fstrim.timer systemd-firstboot e2scrub_reap systemd-binfmt systemd-pstore
install -d -m 700 "$root/root/.ssh"
install -m 600 "$folder/id_ed25519.pub" "$root/root/.ssh/authorized_keys"
rm -f "$root"/etc/ssh/ssh_host_*_key*
chroot "$root" ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
echo "edge $(cut -d' ' -f1,2 "$root/etc/ssh/ssh_host_ed25519_key.pub")" >"$folder/known_hosts"
: >"$root/etc/machine-id"
rm -rf "$root"/var/cache/apt/*.bin "$root"/var/lib/apt/lists/* "$root"/var/log/*.log

cp -L "$root/vmlinuz" "$root/initrd.img" "$folder/"
rm -f "$folder/disk.img"
mkfs.ext4 -q -L edge -d "$root" "$folder/disk.partial" "$size"
mv "$folder/disk.partial" "$folder/disk.img" # last: a folder without it is not whole
