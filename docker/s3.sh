#!/usr/bin/env bash
# Run an S3 server on one machine: a Ceph cluster of one node with its RADOS gateway. Needs Debian's Ceph and curl.
#
#   s3.sh DIR [PORT]      serve PORT (9000) in the foreground, with all data in DIR
#
# Environment:
#   AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY   keys of the only user, set anew at each start
#   S3_BUCKET (montessori)                     bucket, created if missing
#   S3_GIB (100)                               size of the sparse data file, which a restart can enlarge but not shrink
#   S3_LISTEN (127.0.0.1)                      address to listen on
# Ceph's monitor uses PORT + 1 on the loopback. DIR/run/ready exists while the server answers requests. A kill -9 loses
# no answered write.
set -euo pipefail

dir=$(mkdir -p "${1:?a folder for the data}" && cd "$1" && pwd) port=${2:-9000}
key=${AWS_ACCESS_KEY_ID:?the user\'s access key} secret=${AWS_SECRET_ACCESS_KEY:?the user\'s secret key}
bucket=${S3_BUCKET:-montessori} gib=${S3_GIB:-100} address=http://127.0.0.1:$port tcp_nodelay=1
[[ $key$secret =~ ^[A-Za-z0-9/+=_-]+$ ]] || { echo "s3: keys may hold letters, digits and / + = _ -" >&2; exit 2; }
export CEPH_CONF=$dir/ceph.conf

exec 9>"$dir/lock"
flock --nonblock 9 || { echo "s3: $dir is served already" >&2; exit 1; }
rm -rf "$dir/run"
[[ -e $dir/made ]] || rm -rf "$dir"/{ceph.conf,fsid,keyring,monmap,mon,mgr,osd}  # an interrupted first start
mkdir -p "$dir"/{run,mon,mgr,osd}

# Start a daemon that dies with this shell.
daemon() { setpriv --pdeathsig KILL "$@" -f & pids+=($!); }
pids=()

finish() {  # stop the gateway first and the monitor last
  trap - EXIT TERM INT
  rm -f "$dir/run/ready"
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
    kill "${pids[i]}" 2>/dev/null || true
    wait "${pids[i]}" 2>/dev/null || true
  done
  exit "$1"
}
trap 'finish 1' EXIT
trap 'finish 0' TERM INT

[[ -s $dir/fsid ]] || cat /proc/sys/kernel/random/uuid >"$dir/fsid"
fsid=$(<"$dir/fsid")
cat >"$CEPH_CONF" <<EOF
[global]
fsid = $fsid
mon host = [v2:127.0.0.1:$((port + 1))/0]
public addr = 127.0.0.1
ms bind ipv6 = false
keyring = $dir/keyring
auth allow insecure global id reclaim = false
run dir = $dir/run
admin socket = $dir/run/\$name.asok
pid file =
log to file = false
mon cluster log to file = false
mon data = $dir/mon
mon data avail warn = 2
mon data avail crit = 1
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 1000
mgr data = $dir/mgr
osd data = $dir/osd
osd objectstore = bluestore
osd memory target = 939524096
osd crush chooseleaf type = 0
osd crush initial weight = 1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
bluestore block create = true
bluestore block size = $((gib << 30))
rgw data = $dir/run
# A read takes 12 ms with tcp_nodelay, 49 ms without.
rgw frontends = beast endpoint=${S3_LISTEN:-127.0.0.1}:$port tcp_nodelay=1
rgw enable apis = s3
# The cache's watches of a killed gateway would delay the next one by 30 s.
rgw cache enabled = false
rgw thread pool size = 64
EOF

if [[ ! -e $dir/made ]]; then
  ceph-authtool --create-keyring "$dir/keyring" --gen-key -n mon. --cap mon 'allow *'
  for who in client.admin mgr.x client.rgw; do
    ceph-authtool "$dir/keyring" --gen-key -n $who --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
  done
  monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$((port + 1))]" "$dir/monmap"
  ceph-mon --mkfs -i a --monmap "$dir/monmap" --keyring "$dir/keyring"
fi >/dev/null
daemon ceph-mon -i a
daemon ceph-mgr -i x
if [[ ! -e $dir/made ]]; then
  osd=$(</proc/sys/kernel/random/uuid)
  ceph osd new "$osd"
  ceph auth get-or-create osd.0 mon 'allow profile osd' mgr 'allow profile osd' osd 'allow *' -o "$dir/osd/keyring"
  ceph-osd --mkfs -i 0 --osd-uuid "$osd" --keyring "$dir/osd/keyring"
  touch "$dir/made"
elif (( $(stat -c %s "$dir/osd/block") < gib << 30 )); then
  truncate -s "${gib}G" "$dir/osd/block"
  ceph-bluestore-tool bluefs-bdev-expand --path "$dir/osd"
fi >/dev/null
daemon ceph-osd -i 0 --keyring "$dir/osd/keyring"
daemon radosgw -n client.rgw

alive() { for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null || return 1; done; }
until curl -fs -o /dev/null "$address"; do alive || exit 1; sleep .2; done
# The keys come through standard input, since other users can read command lines.
radosgw-admin metadata put user:montessori <<EOF
{"data": {"user_id": "montessori", "display_name": "montessori", "max_buckets": 1000, "op_mask": "read, write, delete",
          "keys": [{"user": "montessori", "access_key": "$key", "secret_key": "$secret"}]}}
EOF
curl -fsS -X PUT --aws-sigv4 aws:amz:us-east-1:s3 -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' --config - "$address/$bucket" \
  <<<"user = \"$key:$secret\""
touch "$dir/run/ready"
echo "s3: $address/$bucket answers"
wait -n || true
echo "s3: a daemon ended" >&2
exit 1
