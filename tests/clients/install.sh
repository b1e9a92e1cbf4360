#!/bin/sh
# Install the programs that the tests run and this machine lacks: registry clients, container engines, a browser,
# a directory server, what python-ldap is compiled with, and the registry that `make bench` compares with. As root on
# Debian it installs them, without starting any service; elsewhere it only says what is missing, and the tests that
# need it are skipped. PYTHON is the interpreter that the tests run on.
set -eu

NEEDED="buildah cc chromium containerd crun ctr curl debootstrap docker docker-registry dockerd htpasswd logrotate newuidmap nginx podman runc skopeo slapd systemd-analyze systemd-socket-activate umoci"
python=$(command -v "${PYTHON:-python3}" || true)
POLICY=/usr/sbin/policy-rc.d
PATH=/usr/bin:/usr/sbin:/bin:/sbin:$PATH

missing_programs() {
    for program in $NEEDED; do
        command -v "$program" >/dev/null || echo "$program"
    done
    for header in ldap.h sasl/sasl.h stdio.h; do
        [ -e "/usr/include/$header" ] || echo "$header"
    done
    [ -e /usr/lib/nginx/modules/ngx_http_set_misc_module.so ] || echo libnginx-mod-http-set-misc
    # Debian's Python has its headers in a package of its own; others come with them.
    case $python in
        /usr/bin/*) [ -e "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || echo Python.h ;;
    esac
}

# Print the Debian package of a program or header.
package_of() {
    case $1 in
        ctr) echo containerd ;;
        # Since Debian 13 the command has a package of its own.
        docker) if apt-cache show docker-cli >/dev/null 2>&1; then echo docker-cli; else echo docker.io; fi ;;
        dockerd) echo docker.io ;;
        htpasswd) echo apache2-utils ;;
        cc) echo gcc ;;
        Python.h) echo python3-dev ;;
        ldap.h) echo libldap-dev ;;
        sasl/sasl.h) echo libsasl2-dev ;;
        stdio.h) echo libc6-dev ;;
        newuidmap) echo uidmap ;;
        systemd-*) echo systemd ;;
        *) echo "$1" ;;
    esac
}

# Let apt-get install services without starting them, unless the machine has a policy of its own.
forbid_services() {
    [ ! -e "$POLICY" ] || return 0
    trap 'rm -f "$POLICY"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$POLICY"
    chmod 755 "$POLICY"
}

missing=$(missing_programs)
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "Not installed, so tests are skipped:" $missing
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive
echo "Installing what the tests need:" $missing
forbid_services
apt-get -q update
packages=$(for program in $missing; do package_of "$program"; done | sort -u)
# shellcheck disable=SC2086 # each package is a word
apt-get -q -y --no-install-recommends install $packages
