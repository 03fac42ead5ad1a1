#!/bin/sh
# An Evergate hook: keeps every event, and acts on those that need somebody.
#
#   failover:
#     on_event:
#       - command: [/usr/local/lib/evergate/on-event.sh, /var/lib/evergate/events]
#
# The event is one JSON object on standard input; docs/operations.md lists its fields. Exit code 0 is
# success; what is written to standard error goes into Evergate's log when it is not.
set -eu
file=${1:?usage: on-event.sh FILE}
event=$(cat)
printf '%s\n' "$event" >>"$file"

case "$EVERGATE_EVENT" in
primary_lost)
    # Here: ask your own tool for a promotion. Do it once, and fence the old primary first.
    # /usr/local/bin/promote-standby "$EVERGATE_CLUSTER"
    ;;
split_brain)
    # Here: page somebody. Evergate writes to nobody until one yields or an operator decides.
    # /usr/local/bin/page "split brain in $EVERGATE_CLUSTER"
    ;;
primary_changed | backend_down | backend_up)
    # Here: clone the lost primary anew (pg_rewind), update a dashboard.
    ;;
esac
