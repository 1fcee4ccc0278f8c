import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBackend } from '../support/backend.ts'
import { batonCommand, type Broker, startBroker, type Status } from '../support/broker.ts'
import { eventually } from '../support/eventually.ts'
import { askAdmin, reload } from '../support/operator.ts'
import { connectionsTo } from '../support/proc.ts'
import { Program, temporaryFolder } from '../support/process.ts'
import { PseudoTerminal } from '../support/pseudo-terminal.ts'
import { LIMIT } from '../support/limits.ts'
import { signal } from '../support/signal.ts'

// `baton status`, `top`, `events`, `trace` and the completions, in real terminals, against a real broker.

const ESC = '\u001B'
const ENTER = `${ESC}[?1049h`
const LEAVE = `${ESC}[?7h${ESC}[?25h${ESC}[?1049l`

const baton = `${process.execPath} ${batonCommand}`

/** The configuration of a running broker with its actual admin port, for the commands. */
function asking(t: Test, broker: Broker): string {
  const file = join(temporaryFolder(t), 'baton.json')
  const config = JSON.parse(readFileSync(broker.configFile, 'utf8')) as Record<string, unknown>
  writeFileSync(file, JSON.stringify({ ...config, admin: { listen: new URL(broker.admin).host } }))
  return file
}

/** On its own connection: a kept one leads to the worker from before a reload. */
async function workerOf(broker: Broker): Promise<Status['broker']> {
  const [, body] = await askAdmin(broker, '/api/v1/status')
  return (JSON.parse(body) as Status).broker
}

async function run(t: Test, ...args: string[]): Promise<{ code: number | null; lines: readonly string[] }> {
  const program = new Program(t, process.execPath, [batonCommand, ...args])
  const { code } = await program.exited
  return { code, lines: program.lines }
}

/** Sends the service a request now and then, until the test is over. */
function traffic(t: Test, broker: Broker): void {
  const end = new AbortController()
  const visit = async () => {
    while (!end.signal.aborted) {
      await fetch(broker.url(), { headers: { connection: 'close' } }).then((answer) => answer.text())
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }
  const visits = visit()
  t.teardown(async () => {
    end.abort()
    await visits
  })
}

// Most of the time is spent waiting for the next second.
t.jobs = 2

void t.test('status, trace and completion', { timeout: LIMIT, buffered: true }, async (t) => {
  const names = ['web', 'other', 'late']
  const broker = await startBroker(t, {
    config: {
      listeners: names.map((name) => ({ name, listen: '127.0.0.1:0', service: name })),
      services: { web: {}, other: { holdTimeout: '200ms' }, late: {} },
    },
  })
  await startBackend(t, broker, 'http-backend.mjs', { env: { BATON_VERSION: `1.0${ESC}[31m` } })
  const file = asking(t, broker)

  await t.test('status: colours on a terminal alone, and not with NO_COLOR', async (t) => {
    const shown = (env: NodeJS.ProcessEnv) =>
      new PseudoTerminal(t, `${baton} status --config ${file}`, { columns: 200, env }).end()
    const [plain, coloured, empty, none, dumb] = await Promise.all([
      run(t, 'status', '--config', file),
      shown({}),
      shown({ NO_COLOR: '' }),
      shown({ NO_COLOR: '1' }),
      shown({ TERM: 'dumb' }),
    ])
    t.match(coloured, `web/web-1  ${ESC}[32mready${ESC}[39m`)
    t.match(empty, `${ESC}[32mready${ESC}[39m`, 'an empty NO_COLOR is none (no-color.org)')
    for (const text of [none, dumb, plain.lines.join('\n')]) {
      t.match(text, /^web\/web-1  ready /m)
      t.notMatch(text, ESC)
    }
    t.match(plain.lines.at(-1), String.raw`1.0\u{1b}[31m`, 'the name of a backend is not an escape sequence')
  })

  await t.test('trace: the path of a connection', async (t) => {
    const rejected = await fetch(broker.url('/', 'other'))
    t.equal(rejected.status, 503)
    const waiting = fetch(broker.url('/', 'late'), { headers: { connection: 'close' } })
    await broker.until(({ services }) => services.some(({ held }) => held === 1), 'it is held')
    await startBackend(t, broker, 'http-backend.mjs', { service: 'late' })
    const { connection } = (await (await waiting).json()) as { connection: string }

    await t.test('as a timeline', async (t) => {
      const { code, lines } = await run(t, 'trace', connection.toLowerCase(), '--config', file)
      t.equal(code, 0)
      t.match(lines[0], new RegExp(`^connection ${connection}: handed_off after \\d+\\.\\d{3} ms$`))
      t.match(lines[1], /^service late, listener late, client 127\.0\.0\.1:\d+, accepted \S+Z$/)
      t.match(lines[2], /^backend late\/late-1, [0-9A-Z]{26}$/)
      const steps = lines.slice(5).map((line) => /●\s+(\w+)/.exec(line)?.[1])
      t.same(steps, ['accepted', 'held', 'chosen', 'offered', 'acknowledged', 'released'])
      const times = lines.slice(5).map((line) => Number.parseFloat(line))
      t.same(
        times,
        times.toSorted((a, b) => a - b),
      )
    })

    await t.test('--json: the response of the API', async (t) => {
      const { lines } = await run(t, 'trace', connection, '--json', '--config', file)
      const answer = await fetch(`${broker.admin}/api/v1/connections/${connection}`)
      t.same(JSON.parse(lines.join('\n')), await answer.json())
    })

    await t.test('--slowest', async (t) => {
      const all = await run(t, 'trace', '--slowest', '5', '--config', file)
      t.equal(all.lines.length, 3, 'a heading and two connections')
      const [, took = ''] =
        /^[0-9A-Z]{26}  other +rejected +([\d,]+\.\d{3}) .* held: NoReadyBackend$/m.exec(
          all.lines.join('\n'),
        ) ?? []
      t.ok(Number(took.replaceAll(',', '')) >= 200, `rejected after ${took} ms, its holdTimeout`)
      const late = await run(t, 'trace', '--slowest', '5', '--service', 'late', '--config', file)
      t.match(late.lines.slice(1), [new RegExp(`^${connection}  late +handed_off `)])
    })

    await t.test('an unknown connection, and an unknown service: exit code and reason', async (t) => {
      const unknown = await run(t, 'trace', '01J00000000000000000000000', '--config', file)
      t.match(unknown, { code: 1, lines: [/^baton: no record of connection "01J0{23}"/] })
      const service = await run(t, 'trace', '--slowest', '1', '--service', 'wbe', '--config', file)
      t.same(service, {
        code: 2,
        lines: ['baton: there is no service "wbe"; there are: web, other, late (BATON_ERR_ADMIN_NO_SERVICE)'],
      })
    })
  })

  await t.test('completion', async (t) => {
    const folder = temporaryFolder(t)
    const bin = join(folder, 'baton')
    writeFileSync(bin, `#!/bin/sh\nexec ${baton} "$@"\n`, { mode: 0o755 })
    writeFileSync(join(folder, 'baton.json'), readFileSync(file))
    const there = { cwd: folder, env: { PATH: `${folder}:${process.env['PATH']}`, HOME: folder } }
    const missing = (shell: string) =>
      spawnSync(shell, ['--version']).error !== undefined &&
      !process.env['CI'] && { skip: `${shell} is not installed` }
    /** Written to a file that can be sourced; it contains every command. */
    const scriptFor = async (t: Test, shell: string) => {
      const [overview, { code, lines }] = await Promise.all([run(t, '--help'), run(t, 'completion', shell)])
      t.equal(code, 0)
      const made = join(folder, `completion.${shell}`)
      const script = `${lines.join('\n')}\n`
      writeFileSync(made, script)
      const commands = overview.lines.flatMap((line) => /^ {2}(\w+) {2,}/.exec(line)?.[1] ?? [])
      t.ok(commands.length >= 12)
      for (const command of commands) t.match(script, new RegExp(`\\b${command}\\b`))
      return made
    }
    /** Prints the completion of each of `lines`, as words separated by spaces. */
    const answers = async (t: Test, shell: string, args: string[], program: string) => {
      const asked = new Program(t, shell, [...args, '-c', program], { ...there, group: true })
      await asked.exited
      return asked.lines.map((line) => line.trimEnd())
    }

    const services = 'late other web'
    const targets = 'late other web web/web-1'

    await t.test('bash', missing('bash') || {}, async (t) => {
      const lines: [line: string[], wanted: string][] = [
        [['dr'], 'drain'],
        [['drain', ''], targets],
        [['drain', '--config', 'baton.json', 'o'], 'other'],
        [['drain', '--config', '=', 'nowhere.json', ''], ''],
        [['drain', '--config', '=', 'bat'], 'baton baton.json'],
        [['drain', '--de'], '--deadline'],
        [['drain', 'web', ''], ''],
        [['trace', '--slowest', '3', '--service', 'w'], 'web'],
        [['completion', ''], 'bash fish zsh'],
        [['run', '-i', '2', '--', 'completion.b'], 'completion.bash'],
        [['--v'], '--version'],
      ]
      const program = [
        `source ${await scriptFor(t, 'bash')}`,
        `try() { COMP_WORDS=(baton "$@"); COMP_CWORD=$#; _baton; printf '%s\\n' "\${COMPREPLY[@]}" | LC_ALL=C sort | tr '\\n' ' '; echo; }`,
        ...lines.map(([line]) => `try ${line.map((word) => `'${word}'`).join(' ')}`),
      ].join('\n')
      const completed = await answers(t, 'bash', ['--norc'], program)
      t.same(
        completed,
        lines.map(([, wanted]) => wanted),
      )
    })

    await t.test('zsh', missing('zsh') || {}, async (t) => {
      const lines: [line: string, wanted: string][] = [
        ['baton dr', 'baton drain'],
        ['baton drain web/', 'baton drain web/web-1'],
        ['baton drain --config=baton.json o', 'baton drain --config=baton.json other'],
        ['baton check --config baton.', 'baton check --config baton.json'],
        ['baton trace --slowest 3 --service o', 'baton trace --slowest 3 --service other'],
        ['baton completion f', 'baton completion fish'],
        ['baton run -i 2 -- true completion.z', 'baton run -i 2 -- true completion.zsh'],
        ['baton --v', 'baton --version'],
      ]
      // A shell in its own terminal; a key prints the line as completed by Tab.
      const setUp = [
        'PS1=; unsetopt beep; autoload -U compinit; compinit -D -u',
        `source ${await scriptFor(t, 'zsh')}`,
        'show() { print -r -- "LI""NE<$BUFFER>"; BUFFER= }; zle -N show; bindkey "^G" show; bindkey "^I" complete-word',
      ].join('; ')
      const program = [
        'zmodload zsh/zpty; zpty z zsh -f -i',
        `zpty -w z ${quoted(setUp)}`,
        ...lines.map(
          ([line]) =>
            `zpty -w -n z ${quoted(line)}$'\\t\\C-g'; zpty -r z out $'*LINE<*>*'; print -r -- "\${\${out##*LINE<}%%>*}"`,
        ),
        'zpty -d z',
      ].join('\n')
      const completed = await answers(t, 'zsh', ['-f'], program)
      t.same(
        completed,
        lines.map(([, wanted]) => wanted),
      )
    })

    await t.test('fish', missing('fish') || {}, async (t) => {
      const lines: [line: string, wanted: string][] = [
        ['baton dr', 'drain'],
        ['baton drain --config=baton.json ', targets],
        ['baton drain --de', '--deadline'],
        ['baton drain web ', ''],
        ['baton check --config baton.', 'baton.json'],
        ['baton trace --slowest 3 --service ', services],
        ['baton completion ', 'bash fish zsh'],
        ['baton run -i 2 -- completion.f', 'completion.fish'],
        ['baton --v', '--version'],
      ]
      const program = [
        `source ${await scriptFor(t, 'fish')}`,
        ...lines.map(
          ([line]) => `echo (complete -C ${quoted(line)} | string replace -r '\\t.*' '' | LC_ALL=C sort)`,
        ),
      ].join('\n')
      const completed = await answers(t, 'fish', ['--no-config'], program)
      t.same(
        completed,
        lines.map(([, wanted]) => wanted),
      )
    })
  })
})

void t.test('top', { timeout: LIMIT, buffered: true }, async (t) => {
  const broker = await startBroker(t)
  await startBackend(t, broker)
  const file = asking(t, broker)
  traffic(t, broker)
  /** Afterwards the terminal prints the state in which it was left. */
  const top = (options?: ConstructorParameters<typeof PseudoTerminal>[2], before = '') =>
    new PseudoTerminal(
      t,
      `sh -c 'echo pid=$$; ${before} exec ${baton} top --config ${file}'; echo code=$?; stty -a`,
      options,
    )
  const restored = (t: Test, output: string, code: number) => {
    const behind = output.slice(output.lastIndexOf(LEAVE))
    t.match(behind, new RegExp(`code=${code}\\r\\n`))
    // stty's terms for a terminal in line mode, with echo, that turns Ctrl-C into a signal.
    t.match(behind, /(?=[^]* icanon )(?=[^]* echo )(?=[^]*\bisig )/)
    t.equal(output.split(ENTER).length, output.split(LEAVE).length, 'left as often as entered')
  }

  await t.test('draws in place, continues over a reload, and restores the terminal on q', async (t) => {
    const screen = top()
    await screen.shows(/web {6}1\/1 +\d+\.\d +[1-9]\d*\.\d /)
    const [, drawn] = await screen.shows(/worker (\d+)  \d\d:\d\d:\d\d/)
    t.equal(Number(drawn), broker.pid)
    t.match(screen.output, `${ENTER}${ESC}[?25l`)
    t.match(screen.output, `web/web-1  ${ESC}[32mready${ESC}[39m`)
    t.equal((await reload(t, broker)).success, true)
    const worker = (await workerOf(broker)).pid
    t.not(worker, broker.pid)
    await screen.shows(new RegExp(`worker ${worker} [^]*web {6}1/1 +\\d+\\.\\d +[1-9]`))
    t.notMatch(screen.output, 'polling once a second', 'it has the events of the next worker')
    const frames = screen.output.split(`${ESC}[H`).slice(1)
    for (const frame of frames) t.equal(frame.split('\r\n').length, 30, 'one line for each row')
    screen.type('q')
    restored(t, await screen.end(), 0)
  })

  await t.test('Ctrl-C and SIGTERM end it as well; NO_COLOR leaves the colours out', async (t) => {
    const [first, second] = [top({ env: { NO_COLOR: '1' } }), top()]
    const [, pid] = await second.shows(/pid=(\d+)/)
    await Promise.all([first.shows(/web\/web-1  ready/), second.shows(/web\/web-1/)])
    t.notMatch(first.output, new RegExp(`${ESC}\\[\\d+m`))
    first.type('\u0003')
    signal(Number(pid), 'SIGTERM')
    restored(t, await first.end(), 0)
    restored(t, await second.end(), 0)
  })

  await t.test('an unexpected error is printed on the original screen', async (t) => {
    const folder = temporaryFolder(t)
    const [bomb, fuse] = [join(folder, 'bomb.mjs'), join(folder, 'fuse')]
    writeFileSync(
      bomb,
      `import { existsSync } from 'node:fs'
      setInterval(() => {
        if (existsSync(${JSON.stringify(fuse)})) throw new Error('boom')
      }, 20)`,
    )
    const screen = top({}, `NODE_OPTIONS=--import=${bomb}`)
    await screen.shows(/web\/web-1/)
    writeFileSync(fuse, '')
    const output = await screen.end()
    t.match(output.slice(output.indexOf(ENTER)), new RegExp(`1049l[^]*Error: boom`))
    t.match(output, ENTER)
    restored(t, output, 1)
  })

  await t.test('Ctrl-Z restores the terminal, and fg takes it again', async (t) => {
    const shell = new PseudoTerminal(t, 'bash --norc -i', { env: { PS1: 'ready$ ' } })
    await shell.shows(/ready\$ /)
    shell.type(`${baton} top --config ${file}\n`)
    await shell.shows(/web\/web-1/)
    shell.type('\u001A')
    await shell.shows(/1049l[^]*Stopped[^]*ready\$ /)
    const stopped = shell.output.length
    shell.type('fg\n')
    await shell.shows(/1049h[^]*web\/web-1/, stopped)
    shell.type('q')
    await shell.shows(/1049l[^]*ready\$ /, stopped)
    shell.type('exit\n')
    await shell.end()
  })

  await t.test('a small terminal: lines are cut, the rest is scrolled to', async (t) => {
    const screen = top({ columns: 40, rows: 8, env: { NO_COLOR: '1' } })
    await screen.shows(/q quits/)
    t.notMatch(screen.output, 'web/web-1', 'the backends are below the margin')
    screen.type(`${ESC}[B${ESC}[B${ESC}[Bj`)
    await screen.shows(/web\/web-1/)
    screen.type('q')
    const output = await screen.end()
    const [, ...frames] = output.slice(0, output.lastIndexOf(LEAVE)).split(`${ESC}[H`)
    const seen = (line: string) => line.replaceAll(new RegExp(`${ESC}\\[[KJ]|\\r`, 'g'), '')
    for (const line of frames.flatMap((frame) => frame.split('\r\n'))) t.ok(seen(line).length <= 40, line)
  })

  await t.test('without a terminal: one line per second, until the reader is gone', async (t) => {
    const command = `${baton} top --config ${file} | head -n 2; echo over`
    const program = new Program(t, 'sh', ['-c', command])
    t.same((await program.exited).code, 0)
    const [first = '', second = '', last] = program.lines
    t.equal(last, 'over')
    for (const line of [first, second])
      t.match(
        line,
        /^time=\S+Z service=web ready=1 backends=1 accepted_per_second=\d+\.\d handoffs_per_second=[1-9]\S+ p50_ms=\d/,
      )
    const times = [first, second].map((line) => Date.parse(/time=(\S+)/.exec(line)?.[1] ?? ''))
    t.ok((times[1] as number) - (times[0] as number) > 500)
  })

  await t.test('--once: one snapshot', async (t) => {
    const { code, lines } = await run(t, 'top', '--once', '--config', file)
    t.equal(code, 0)
    t.match(lines[0], /^baton \d+\.\d+\.\d+  running  up [\dms ]+  master \d+, worker \d+  \d\d:\d\d:\d\d$/)
    t.match(lines.join('\n'), /^web +1\/1 +\d+\.\d +[1-9]\d*\.\d +0\.0 +0\.0 +0 +\d+\.\d\d /m)
    t.match(lines.at(-1), /^web\/web-1  ready /)
  })

  await t.test('it waits for a broker that is gone', async (t) => {
    const other = await startBroker(t)
    const screen = new PseudoTerminal(t, `${baton} top --config ${asking(t, other)}; echo code=$?; stty -a`)
    await screen.shows(/no backend is registered/)
    await other.die()
    await screen.shows(/retrying: cannot reach the broker at /)
    screen.type('q')
    restored(t, await screen.end(), 0)
  })
})

void t.test(
  'events: a line for each change, over a reload too',
  { timeout: LIMIT, buffered: true },
  async (t) => {
    const broker = await startBroker(t)
    const file = asking(t, broker)
    const port = Number(new URL(broker.admin).port)
    const before = connectionsTo(port)
    const follow = (...options: string[]) =>
      new Program(t, process.execPath, [batonCommand, 'events', ...options, '--config', file])
    const [text, json] = [follow(), follow('--json')]
    await eventually(() => connectionsTo(port) === before + 2, 'both listen')

    const backend = await startBackend(t, broker)
    const { backends = [] } = (await broker.status()).services[0] ?? {}
    const id = backends[0]?.id
    await text.line(
      (line) => /Z  backend_registered +web\/web-1  web-1 has registered/.test(line),
      'it registers',
    )
    const registered = await json.line((line) => line.includes('backend_registered'), 'it registers')
    t.match(JSON.parse(registered), {
      kind: 'backend_registered',
      service: 'web',
      backend: { id, slot: 'web-1', pid: backend.pid },
      to: 'ready',
    })

    t.equal((await reload(t, broker)).success, true)
    const worker = await workerOf(broker)
    for (const program of [text, json]) {
      const again = `baton: reconnected to worker ${worker.id}, `
      await program.line((line) => line.startsWith(again), 'the next worker answers')
    }
    const drained = await run(t, 'drain', 'web/web-1', '--config', file)
    t.equal(drained.code, 0)
    await text.line((line) => /Z  drain +web\/web-1  .* drains web-1 of service web/.test(line), 'who asked')
    await text.line((line) => /Z  backend_deregistered +web\/web-1  /.test(line), 'it is gone')
    // Another process, whose message may come later.
    await json.line((line) => line.includes('backend_deregistered'), 'it is gone')
    t.notMatch(text.lines.join('\n'), ESC)
    t.ok(text.running && json.running, 'they follow')
    const kinds = json.messages().map(({ kind }) => kind)
    t.match(kinds.filter((kind) => kind !== 'backend_state').slice(-2), ['drain', 'backend_deregistered'])
  },
)

function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`
}
