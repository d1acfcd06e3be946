#!/usr/bin/env bash
# Trains with several processes on this machine, as a pod would with one process on each host.
#
#   launch/local.sh -n 2 -d 2 --config=configs/mgvq_demo.py --workdir=runs/two
#
#   -n N  processes, 2 if not said
#   -d D  CPU devices of each process; without it the GPUs are shared out evenly, and where there
#         are none every process has one CPU device
#   -r K  how often to go on after an interruption, 0 if not said
#   -g S  seconds for the others to end once one has failed, and again after a SIGTERM; 120
#
# The other arguments reach `python -m vqlab.main` as they are. Process 0 writes as it would alone,
# lines of the others begin with their number. SIGINT and SIGTERM reach every process as SIGTERM.
# Exit code: 0 when all are done, 2 for a wrong setting, 75 to be run again, or that of the error.
set -euo pipefail

processes=2 devices='' retries=0 grace=120
while (($#)); do
  case $1 in
    -n) processes=$2 && shift 2 ;;
    -d) devices=$2 && shift 2 ;;
    -r) retries=$2 && shift 2 ;;
    -g) grace=$2 && shift 2 ;;
    -h) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p;}' "$0" && exit ;;
    --) shift && break ;;
    *) break ;;
  esac
done
for number in "$processes" "${devices:-1}" "$retries" "$grace"; do
  if [[ ! $number =~ ^[0-9]+$ ]] || ((processes < 1)); then
    echo "error: -n, -d, -r and -g take whole numbers, -n from 1 on; see $0 -h" >&2
    exit 2
  fi
done

share_gpus() { # sets gpus and gpus_each; none when CPU devices were asked for or there is no GPU
  gpus=()
  if [[ -z $devices ]] && command -v nvidia-smi > /dev/null; then
    local all
    all=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader)}
    all=${all//$'\n'/,}
    IFS=, read -r -a gpus <<< "$all"
  fi
  gpus_each=$((${#gpus[@]} / processes))
  if ((gpus_each * processes != ${#gpus[@]})); then
    echo "error: ${#gpus[@]} GPUs do not split evenly among $processes processes" >&2
    exit 2
  fi
}

start() { # start I ARGS...: becomes process I
  export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$processes JAX_PROCESS_ID=$1
  if ((gpus_each)); then
    CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${gpus[*]:$1 * gpus_each:gpus_each}")
    export CUDA_VISIBLE_DEVICES
  else
    export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=${devices:-1}
    # Threads of XLA: as few as there are cores can all wait for a device that then has none.
    export NPROC=${NPROC:-32}
  fi
  if (($1)); then # process 0 keeps the terminal, on which it draws its progress bar
    exec > >(sed -u "s/^/[$1] /") 2> >(sed -u "s/^/[$1] /" >&2)
  fi
  exec python -m vqlab.main "${@:2}"
}

signal() { # signal NAME: to every process that is still there
  local pid
  for pid in "${pids[@]}"; do
    kill "-$1" "$pid" 2> /dev/null || true
  done
}

# Sets codes. After a failure the others have `grace` seconds, then SIGTERM, then SIGKILL.
wait_for_all() {
  local deadline='' next=TERM running=1 i
  codes=()
  while ((running)); do
    sleep 0.2 || true # Ctrl-C ends it
    running=0
    for i in "${!pids[@]}"; do
      [[ -n ${codes[i]-} ]] && continue
      if kill -0 "${pids[i]}" 2> /dev/null; then
        running=1
        continue
      fi
      codes[i]=0
      wait "${pids[i]}" || codes[i]=$?
      if ((codes[i] && ${#deadline} == 0)); then
        deadline=$((SECONDS + grace))
      fi
    done
    if ((running)) && [[ -n $deadline ]] && ((SECONDS >= deadline)); then
      signal "$next"
      next=KILL deadline=$((SECONDS + grace))
    fi
  done
}

verdict() { # verdict CODES...: the one exit code that says what to do
  local code result=0
  for code in "$@"; do
    case $code:$result in
      0:*) ;;
      2:*) result=2 ;;
      75:0 | 134:0 | 137:0 | 143:0) result=75 ;; # saved, aborted, killed: worth another run
      75:* | 134:* | 137:* | 143:*) ;;
      *:0 | *:75) result=$code ;;
    esac
  done
  echo "$result"
}

pids=() stopped=''
trap 'stopped=yes; signal TERM' HUP INT TERM
trap 'signal TERM' EXIT
share_gpus
for ((run = 0; run <= retries; run++)); do
  port=$(python -c 'import socket; s = socket.create_server(("127.0.0.1", 0))
print(s.getsockname()[1])')
  pids=()
  set -m # process groups of their own, or Ctrl-C would reach them past this script
  for ((i = 0; i < processes; i++)); do
    start "$i" "$@" < /dev/null &
    pids+=($!)
  done
  set +m
  if [[ -n $stopped ]]; then # between two starts, when nobody was there to be told
    signal TERM
  fi
  wait_for_all
  status=$(verdict "${codes[@]}")
  if ((status != 75)) || [[ -n $stopped ]]; then
    break
  fi
done
pids=()
exit "$status"
