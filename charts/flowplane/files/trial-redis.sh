# Redis for a trial: nothing is written to disk, because messages only ring. The password comes from our address of it.
set -eu
address="$(cat /etc/trial/url)"
case "$address" in *://*:*@*) ;; *) echo "the broker's address must have a password: redis://:letters@trial-redis:6379/0" >&2 && exit 64 ;; esac
address="${address#*://*:}"
umask 077
printf 'requirepass "%s"\n' "${address%%@*}" >/tmp/redis.conf
exec redis-server /tmp/redis.conf --save "" --appendonly no --dir /tmp --bind "*"
