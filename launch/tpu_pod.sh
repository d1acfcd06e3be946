#!/usr/bin/env bash
# Trains on a Cloud TPU pod, with one process on each of its hosts, and makes the pod anew whenever
# it is preempted. JAX finds the processes by itself.
#
#   NAME=f16 ZONE=us-central1-a TYPE=v5litepod-64 VERSION=v2-alpha-tpuv5-lite SPOT=yes \
#     launch/tpu_pod.sh --config=configs/mgvq_f16.py --workdir=/mnt/runs/f16 \
#     --config.objective.lpips_weights=/mnt/runs/lpips.safetensors \
#     --config.data.data_dir=/mnt/runs/tfds
#
# To be set:   NAME, ZONE, TYPE, VERSION  of the queued resource and its one node
# May be set:  SPOT=yes          cheaper, and preempted at any time
#              PREPARE='...'     runs on each host before training, such as the mount of a folder
#                                that all hosts see: the workdir has to be there, with the data
#                                (or images: --config.data.name=folder --config.data.path)
#              MAX_RESTARTS=100  how often to go on after an interruption
#              KEEP=yes          leaves the pod standing, and costing, when training is done
#              POLL=30           seconds between two looks at the pod
#
# Run it from the root of the repository on a machine that stays up. Started again, it finds the pod
# and follows the run that is going on there. SIGINT and SIGTERM save the run and end it with 75.
set -euo pipefail
: "${NAME:?}" "${ZONE:?}" "${TYPE:?}" "${VERSION:?}"
poll=${POLL:-30} training='' stopped=''

queue() { gcloud compute tpus queued-resources "$@" --zone="$ZONE" --quiet; }
on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"
}

state() { # of the queued resource; empty when there is none
  queue list --filter="name ~ /$NAME\$" --format='value(state.state)'
}

make_pod() { # waits until the pod is there; fails where another try may help
  local now
  while now=$(state) && [[ $now != ACTIVE ]]; do
    echo "pod $NAME: ${now:-to be created}"
    case $now in
      '')
        queue create "$NAME" --node-id="$NAME" --accelerator-type="$TYPE" \
          --runtime-version="$VERSION" ${SPOT:+--spot} || return
        ;;
      FAILED | SUSPENDED) # never granted, or preempted: it comes back only as a new one
        queue delete "$NAME" --force
        return 1
        ;;
    esac
    sleep "$poll"
  done
  [[ $now == ACTIVE ]]
}

set_up() { # code, environment and PREPARE on each host; a run that is going on there is left alone
  local code
  code=$(mktemp)
  tar -czf "$code" --exclude-vcs --exclude=.venv --exclude=./runs . &&
    gcloud compute tpus tpu-vm scp "$code" "$NAME:vqlab.tgz" --zone="$ZONE" --worker=all &&
    on_all_hosts "if pgrep --pidfile vqlab/run.pid --full vqlab.main; then exit; fi
      set -e
      mkdir -p vqlab && tar -xzf vqlab.tgz -C vqlab && cd vqlab
      python3 -m pip install --quiet --user uv
      python3 -m uv venv --quiet --allow-existing --python 3.11 .venv
      python3 -m uv pip install --quiet -r requirements.txt 'jax[tpu]'
      ${PREPARE:-}"
}

# Runs on each host: starts the command apart from the connection, which may break, and follows it.
# gcloud then connects anew and repeats this, which finds the run and only follows.
# shellcheck disable=SC2016
start_or_follow='cd vqlab
if ! pgrep --pidfile run.pid --full vqlab.main > /dev/null 2>&1; then
  source .venv/bin/activate
  rm -f run.exit
  setsid nohup bash -c '\''python -m vqlab.main "$@"; echo $? > run.exit'\'' - "$@" \
    < /dev/null > run.log 2>&1 &
  echo $! > run.pid
fi
tail --lines=100 --follow --pid="$(cat run.pid)" run.log | sed -u "s/^/[${HOSTNAME##*-}] /"
exit "$(cat run.exit || echo 137)"'

train() { # in the background, because bash heeds a signal only while it waits
  on_all_hosts "$(printf '%q ' bash -c "$start_or_follow" - "$@")" &
  training=$! status=0
  wait "$training" || status=$?
  if [[ -n $stopped ]]; then # that was the signal; the run has yet to save
    wait "$training" || status=75
  fi
  training=''
}

trap '[[ -n $training ]] || exit 75
  stopped=yes
  on_all_hosts "pkill -TERM --parent \"\$(cat vqlab/run.pid)\"" || true' INT TERM

for ((restart = 0; restart <= ${MAX_RESTARTS:-100}; restart++)); do
  status=75
  if make_pod && set_up; then
    train "$@"
  elif ((restart == 0)) && [[ -z $(state) ]]; then
    exit 2 # refused from the beginning: a wrong setting
  fi
  if ((status == 0)) || [[ -n $stopped ]]; then
    break
  fi
  sleep "$poll"
  # 75: stopped and saved. 134, 137, 143: aborted or killed. 255: the connection broke. Any other is
  # an error, unless the pod is gone, when it says nothing.
  case $status in
    75 | 134 | 137 | 143 | 255) ;;
    *) if [[ $(state) == ACTIVE ]]; then break; fi ;;
  esac
  echo "exit code $status: going on"
done

if ((status == 0)) && [[ -z ${KEEP:-} ]]; then
  queue delete "$NAME" --force
else
  echo "pod $NAME stays: gcloud compute tpus queued-resources delete $NAME --zone=$ZONE --force"
fi
exit "$status"
