#!/bin/sh
# Runs on the robot as root: puts the files of the folder $1 in their places. Each line that it prints is a reason.
# Every file is replaced in one step by one that is on the disk, and nothing that is right is touched: run it again at will.
set -eu
umask 022
given=$1
account=pi0-flash
service=pi0-edge
state=/var/lib/pi0-edge
changed=0

put() { # SOURCE DESTINATION MODE: returns 1 where it was right
    if cmp -s "$1" "$2" && [ "$(stat -c %a "$2")" = "$3" ]; then return 1; fi
    mkdir -p "$(dirname "$2")"
    install -m "$3" -o root -g root "$1" "$2.pi0-new"
    sync "$2.pi0-new"
    mv -f "$2.pi0-new" "$2"
    echo "wrote $2"
}

folder() { # MODE OWNER GROUP PATH
    if [ "$(stat -c '%a %U %G' "$4" 2>/dev/null)" != "$1 $2 $3" ]; then
        install -d -m "$1" -o "$2" -g "$3" "$4"
        echo "folder $4: $2:$3 $1"
    fi
}

make_account() { # NAME HOME SHELL COMMENT
    if ! getent passwd "$1" >/dev/null; then
        useradd --system --user-group --no-create-home --home-dir "$2" --shell "$3" --comment "$4" "$1"
        echo "account $1: made"
    fi
}

# Accounts. The forced command needs a shell that is one; without a password and without a key nobody gets it.
make_account $service /nonexistent /usr/sbin/nologin "pi0-edge services"
make_account $account /var/lib/$account /bin/sh "pi0-edge receives releases"
for group in dialout video render i2c; do
    if getent group $group >/dev/null && ! id -nG $service | tr ' ' '\n' | grep -qx $group; then
        usermod -aG $group $service
        echo "account $service: in the group $group"
    fi
done

folder 755 root root $state
folder 755 root root $state/releases
folder 700 root root $state/incoming
folder 755 root root $state/tuf
folder 1770 root $account $state/staging # sticky: what root puts there, the account can neither rename nor remove
folder 755 root root /opt/pi0-edge
folder 755 root root /opt/pi0-edge/sdk
folder 755 root root /etc/pi0-edge
folder 755 root root /var/lib/$account
folder 755 root root /var/lib/$account/.ssh

# The launcher: a folder of its own for each version, and one link that is turned in one step.
version=$(cat "$given/launcher.version")
if [ "$(readlink /usr/lib/pi0-edge 2>/dev/null)" != "pi0-edge-$version" ]; then
    rm -rf "/usr/lib/pi0-edge-$version" /usr/lib/.pi0-edge.new
    cp -R "$given/launcher" "/usr/lib/pi0-edge-$version"
    chown -R root:root "/usr/lib/pi0-edge-$version"
    chmod -R u=rwX,go=rX "/usr/lib/pi0-edge-$version"
    find "/usr/lib/pi0-edge-$version" -type f -exec sync {} +
    ln -s "pi0-edge-$version" /usr/lib/.pi0-edge.new
    mv -T -f /usr/lib/.pi0-edge.new /usr/lib/pi0-edge
    sync /usr/lib
    echo "launcher: $version"
    for old in /usr/lib/pi0-edge-*; do
        [ "$old" = "/usr/lib/pi0-edge-$version" ] || rm -rf "$old"
    done
fi

# Units, rules, settings: given/files is laid out as /.
(cd "$given/files" && find . -type f) | sed 's/^\.//' | sort >"$given/list"
while read -r file; do
    put "$given/files$file" "$file" 644 || continue
    case $file in /etc/systemd/* | /etc/udev/*) changed=1 ;; esac
done <"$given/list"

# Keys: one line for each workstation; those of others stay.
keys=/var/lib/$account/.ssh/authorized_keys
[ -e $keys ] || : >$keys
while read -r line; do
    words=$(printf '%s\n' "$line" | sed 's/.*\(ssh-[a-z0-9-]* [A-Za-z0-9+/=]*\).*/\1/')
    if ! grep -qxF "$line" $keys; then
        grep -vF "$words" $keys >"$given/keys" || true
        printf '%s\n' "$line" >>"$given/keys"
        put "$given/keys" $keys 644 >/dev/null || true
        echo "key: $(printf '%s\n' "$words" | ssh-keygen -l -f - | cut -d' ' -f2) may flash"
    fi
done <"$given/authorized_keys"
chmod 644 $keys

# sshd notices within 20 s that a flashing workstation is gone.
if [ -d /etc/ssh/sshd_config.d ] && put "$given/sshd.conf" /etc/ssh/sshd_config.d/pi0-edge.conf 644; then
    if sshd -t; then
        systemctl reload ssh 2>/dev/null || systemctl reload sshd 2>/dev/null || true
    else
        rm -f /etc/ssh/sshd_config.d/pi0-edge.conf
        echo "sshd: refuses its part for pi0-flash, which was taken away again"
    fi
fi

systemd-tmpfiles --create /etc/tmpfiles.d/pi0-edge.conf
if [ $changed = 1 ]; then
    systemctl daemon-reload
    if command -v udevadm >/dev/null && [ -e /run/udev/control ]; then udevadm control --reload; fi
    echo "systemd: units are read; a service that runs has them from its next start"
fi
while read -r unit; do
    if ! systemctl is-enabled --quiet "$unit"; then
        systemctl enable --quiet "$unit"
        echo "unit $unit: enabled"
    fi
    case $unit in
    *.socket | *.target) systemctl is-active --quiet "$unit" || systemctl start --no-block "$unit" ;;
    esac
done <"$given/enable"
while read -r unit; do
    if systemctl is-enabled --quiet "$unit" 2>/dev/null; then
        systemctl disable --quiet "$unit"
        echo "unit $unit: disabled"
    fi
done <"$given/disable"
sync
