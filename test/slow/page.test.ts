import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBackend } from '../support/backend.ts'
import { startBroker } from '../support/broker.ts'
import { Chromium, type Tab } from '../support/chromium.ts'
import { Client } from '../support/client.ts'
import { startLoad } from '../support/load.ts'
import { temporaryFolder } from '../support/process.ts'
import { visit } from '../support/visit.ts'
import { LIMIT } from '../support/limits.ts'

// The admin server's page in a real browser, with a real broker and real backends.

const LIVE = `document.querySelector('#feed').dataset.state === 'live'`
const OPEN = `document.querySelector('#ask').open`

/** One browser for all tests; it starts while the broker does. */
const chromium = Chromium.start(t)

/** Roles that are unusable, or cannot be found, without a name. */
const NAMED = new Set([
  'button',
  'link',
  'textbox',
  'combobox',
  'dialog',
  'image',
  'img',
  'table',
  'region',
  'form',
])

/** An expression: a backend's row, by slot. */
function rowOf(slot: string): string {
  return `[...document.querySelectorAll('.backends tbody tr')].find((row) => row.querySelector('th').innerText === '${slot}')`
}

/** An expression: the text of a cell in that row. */
function cellOf(slot: string, title: string): string {
  return `${rowOf(slot)}?.querySelector('[data-label="${title}"]').innerText`
}

function drainButton(slot: string): string {
  return `button[aria-label="Drain ${slot}"]`
}

/** An expression: the figure next to this word, in a service's facts. */
function factOf(service: string, word: string): string {
  return `[...document.querySelectorAll('[aria-labelledby="service-${service}"] .facts div')]
    .find((fact) => fact.querySelector('dt').innerText === '${word}')?.querySelector('dd').innerText`
}

/** An expression: a chart's description of what it shows. */
function chartOf(service: string, title: string): string {
  return `document.querySelector('[aria-labelledby="service-${service}"] svg[aria-label^="${title}"]').getAttribute('aria-label')`
}

/** Asserts that nothing needs horizontal scrolling. */
async function fits(t: Test, tab: Tab, width: number, what: string): Promise<void> {
  await tab.viewport(width, 700)
  t.equal(await tab.evaluate('document.documentElement.scrollWidth'), width, what)
}

/** The elements reached by Tab, from the top of the page until focus leaves it. */
async function tabOrder(tab: Tab): Promise<string[]> {
  // The browser continues from the last click; the body comes before everything.
  await tab.evaluate(
    `(document.body.tabIndex = -1, document.body.focus(), document.body.removeAttribute('tabindex'))`,
  )
  const reached: string[] = []
  for (let presses = 0; presses < 100; presses++) {
    await tab.press('Tab')
    const name = await tab.evaluate<string>(
      `document.activeElement === document.body ? '' : nameOf(document.activeElement)`,
    )
    if (name === '' || name === reached[0]) return reached
    reached.push(name)
  }
  return reached
}

void t.test('the page shows a working broker, and controls it', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, {
    config: {
      listeners: ['web', 'idle'].map((name) => ({
        name,
        listen: '127.0.0.1:0',
        protocol: 'http',
        service: name,
      })),
      services: { web: {}, idle: {} },
    },
  })
  const started = ['1.2.3', '1.2.4'].map((version) =>
    startBackend(t, broker, 'http-backend.mjs', { env: { BATON_VERSION: version } }),
  )
  const backends = await Promise.all(started)
  const tab = await (await chromium).open()
  await tab.viewport(1280, 800)

  await t.test('it loads without errors, under a strict policy, and is live', async (t) => {
    const { headers } = await fetch(broker.admin)
    const policy = headers.get('content-security-policy') ?? ''
    t.match(policy, /default-src 'none'.*script-src 'self'.*frame-ancestors 'none'/)
    t.notMatch(policy, /unsafe|\*|https?:/)
    await tab.goto(broker.admin)
    await tab.until(LIVE)
    t.same(tab.complaints, [])
    await tab
      .evaluate(
        `document.body.append(Object.assign(document.createElement('script'), { text: 'window.ran = 1' }))`,
      )
      .catch(() => {})
    t.equal(await tab.evaluate('window.ran ?? 0'), 0, 'the policy is in force: no script but its own')
    t.ok(tab.complaints.length > 0, 'and this test would have seen a violation')
    tab.complaints.length = 0
  })

  await t.test('it shows the backends as the broker knows them', async (t) => {
    const [web] = (await broker.backends(2)).services
    for (const { slot, pid } of web?.backends ?? []) {
      await tab.until(`${cellOf(slot, 'State')}?.includes('ready')`)
      t.equal(await tab.evaluate(cellOf(slot, 'Pid')), String(pid))
      const version = pid === backends[0]?.pid ? '1.2.3' : '1.2.4'
      t.equal(await tab.evaluate(cellOf(slot, 'Version')), version)
    }
    t.match(await tab.text('#services'), broker.address())
  })

  await t.test('figures follow the load, and a held client is shown', async (t) => {
    t.match(await tab.evaluate(chartOf('web', 'Handoffs per second')), /at most 0$/)
    const stays = await visit(t, broker)
    await stays.answer()
    await tab.until(`[${cellOf('web-1', 'Live')}, ${cellOf('web-2', 'Live')}].toSorted().join() === '0,1'`)
    await startLoad(t, broker, { total: 300, concurrency: 8 })
    await tab.until(`${factOf('web', 'handed off')} === '301'`)
    await tab.until(`Number(${cellOf('web-1', 'Adopted')}) + Number(${cellOf('web-2', 'Adopted')}) === 301`)
    await tab.until(`Number(/at most ([\\d.,]+)$/.exec(${chartOf('web', 'Handoffs per second')})[1]) > 0`)
    await tab.until(`/p50 [\\d.]+, p90 [\\d.]+, p99 [\\d.]+;/.test(${chartOf('web', 'Handoff latency')})`)
    const waits = await Client.open(t, { host: '127.0.0.1', port: broker.port('idle') })
    waits.request()
    await tab.until(`${chartOf('idle', 'Held clients')}.includes('now 1')`)
    await tab.until(`document.querySelector('[aria-labelledby="service-idle"] .problem').innerText !== ''`)
    t.match(await tab.text('[aria-labelledby="service-idle"] .reasons'), /hold\s+NoReadyBackend\s+[\d.]+\s+1/)
    waits.socket.resetAndDestroy()
    await tab.until(`${chartOf('idle', 'Held clients')}.includes('now 0')`)
    t.same(tab.complaints, [])
  })

  await t.test('the record of a connection is found by id, step by step', async (t) => {
    const client = await visit(t, broker)
    const { connection } = JSON.parse((await client.answer()).body) as { connection: string }
    await tab.click('#lookup-id')
    await tab.type(` ${connection.toLowerCase()} `)
    await tab.press('Enter')
    await tab.until(`document.querySelector('#record table')`)
    t.equal(await tab.text('#record h3 code'), connection)
    t.match(await tab.text('#record .facts'), new RegExp(`client\\s+127.0.0.1:${client.port}`))
    t.match(await tab.text('#record .facts'), /outcome\s+handed_off/)
    const steps = await tab.evaluate<string[]>(
      `[...document.querySelectorAll('#record td code')].map((step) => step.innerText)`,
    )
    t.same(steps, ['accepted', 'chosen', 'offered', 'acknowledged', 'released'])
    t.equal(await tab.evaluate('document.activeElement.id'), 'record-title', 'a screen reader is led there')
    t.equal(await tab.evaluate('location.hash'), `#${connection}`)

    await tab.evaluate(`document.querySelector('#lookup-id').value = 'no such thing'`)
    await tab.click('#lookup button')
    await tab.until(`document.querySelector('#lookup-problem').innerText.includes('not a ULID')`)
    t.same(tab.complaints, [])
    await tab.evaluate(`document.querySelector('#lookup-id').value = '01ARZ3NDEKTSV4RRFFQ69G5FAV'`)
    await tab.click('#lookup button')
    await tab.until(`document.querySelector('#lookup-problem').innerText.includes('BATON_ERR_')`)
    t.equal(tab.complaints.splice(0).length, 1, 'the browser logs the 404 itself')

    // A new list replaces the old one, under whatever is clicked meanwhile.
    await tab.evaluate(`document.querySelector('#list').firstElementChild?.setAttribute('data-old', '')`)
    await tab.click('#filter-again')
    await tab.until(`document.querySelectorAll('#list table:not([data-old]) tbody tr').length === 15`)
    const took = await tab.evaluate<string[]>(
      `[...document.querySelectorAll('#list [data-label="Took"]:not(th)')].map((cell) => cell.innerText)`,
    )
    const times = took.map((text) => Number(text.replace(/,| ms/g, '')))
    t.same(
      times,
      times.toSorted((a, b) => b - a),
      'slowest first',
    )
    await tab.click('#list a')
    await tab.until(`location.hash.slice(1) === document.querySelector('#record h3 code')?.innerText`)
  })

  await t.test('every control has a name, and the page its landmarks', async (t) => {
    const tree = await tab.accessible()
    t.same(
      tree.filter(({ role, name }) => NAMED.has(role) && name.trim() === ''),
      [],
    )
    const roles = new Set(tree.map(({ role }) => role))
    for (const role of [
      'banner',
      'main',
      'contentinfo',
      'region',
      'search',
      'table',
      'columnheader',
      'rowheader',
    ])
      t.ok(roles.has(role), role)
    await tab.viewport(375, 700)
    const narrow = new Set((await tab.accessible()).map(({ role }) => role))
    for (const role of ['table', 'row', 'columnheader', 'rowheader', 'cell'])
      t.ok(narrow.has(role), `${role}, on a phone`)
    await tab.viewport(1280, 800)
  })

  await t.test('the keyboard reaches everything, in the order in which it is read', async (t) => {
    await tab.evaluate(`window.nameOf = (found) =>
      (found.getAttribute('aria-label') ?? (found.id || found.innerText || found.textContent)).trim()`)
    const wanted = await tab.evaluate<string[]>(
      `[...document.querySelectorAll('a[href], button, input, select')]
        .filter((found) => found.checkVisibility() && !found.disabled).map(nameOf)`,
    )
    t.ok(wanted.length > 10)
    t.same(await tabOrder(tab), wanted)
    // With the keyboard: whether a browser shows a focus set by a script depends on the input before it.
    for (let count = 0; count <= wanted.length; count++) {
      await tab.press('Tab')
      if ((await tab.evaluate('document.activeElement.id')) === 'reload') break
    }
    t.same(
      await tab.evaluate(
        '[document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]',
      ),
      ['reload', 'solid'],
      'the focus is seen',
    )
    await tab.press('Enter')
    await tab.until(OPEN)
    t.equal(await tab.evaluate('document.activeElement.id'), 'ask-cancel', 'a second Enter changes nothing')
    await tab.press('Tab')
    t.equal(await tab.evaluate('document.activeElement.id'), 'ask-confirm')
    await tab.press('Escape')
    await tab.until(`!${OPEN}`)
    t.equal(await tab.evaluate('document.activeElement.id'), 'reload', 'focus is back')
  })

  await t.test('it fits a phone, with a record and the dialog open', async (t) => {
    await fits(t, tab, 375, 'with a record')
    await fits(t, tab, 320, 'the narrowest')
    await tab.click(drainButton('web-1'))
    await tab.until(OPEN)
    await fits(t, tab, 375, 'with the dialog')
    await tab.press('Escape')
    await tab.viewport(1280, 800)
  })

  for (const scheme of ['light', 'dark'] as const) {
    await t.test(`${scheme}: legible`, async (t) => {
      await tab.prefer(scheme)
      const contrasts = await tab.evaluate<Record<string, number>>(`(() => {
        const style = getComputedStyle(document.documentElement)
        const luminance = (name) => {
          const channels = /^#(..)(..)(..)$/.exec(style.getPropertyValue(name)).slice(1).map((hex) => parseInt(hex, 16) / 255)
          const [r, g, b] = channels.map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
          return 0.2126 * r + 0.7152 * g + 0.0722 * b
        }
        const contrast = (one, other) => {
          const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b)
          return (high + 0.05) / (low + 0.05)
        }
        const colours = ['--text', '--muted', '--a', '--b', '--c', '--good', '--warn', '--bad', '--focus']
        return Object.fromEntries([
          ...colours.flatMap((name) => ['--panel', '--ground'].map((on) => [name + ' on ' + on, contrast(name, on)])),
          ['dark', luminance('--panel') < 0.1 ? 1 : 0],
        ])
      })()`)
      const { dark, ...rest } = contrasts
      t.equal(dark, scheme === 'dark' ? 1 : 0)
      // WCAG 2.2, success criterion 1.4.3.
      t.same(
        Object.entries(rest).filter(([, contrast]) => contrast < 4.5),
        [],
      )
      const ground = await tab.evaluate<string>('getComputedStyle(document.body).backgroundColor')
      t.equal(ground === 'rgb(13, 17, 22)', scheme === 'dark', ground)
    })
  }

  await t.test('drain asks for confirmation, then drains', async (t) => {
    const find = async () =>
      (await broker.status()).services[0]?.backends.find(({ slot }) => slot === 'web-1')
    const stateOf = async () => (await find())?.state
    const { pid } = (await find()) ?? {}
    const uploads: Client[] = []
    for (let count = 0; count < 2; count++) {
      const upload = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
      upload.send('POST /whole HTTP/1.1\r\nHost: page\r\nContent-Length: 1\r\n\r\n')
      uploads.push(upload)
    }
    await tab.click(drainButton('web-1'))
    await tab.until(OPEN)
    t.match(await tab.text('#ask'), /Drain web-1\?/)
    await tab.click('#ask-cancel')
    await tab.until(`!${OPEN}`)
    t.equal(await stateOf(), 'ready', 'nothing was done')

    await tab.click(drainButton('web-1'))
    await tab.click('#ask-deadline')
    await tab.type('soon')
    await tab.click('#ask-confirm')
    await tab.until(
      `document.querySelector('#ask-outcome').innerText.includes('BATON_ERR_ADMIN_BAD_REQUEST')`,
    )
    t.equal(await stateOf(), 'ready', 'nor then')
    t.equal(tab.complaints.splice(0).length, 1, 'the browser logs the 400 itself')
    await tab.evaluate(`document.querySelector('#ask-deadline').value = ''`)
    await tab.click('#ask-deadline')
    await tab.type('20s')
    await tab.click('#ask-confirm')
    await tab.until(
      `document.querySelector('#ask-outcome').innerText.includes('1 backend to finish within 20 s')`,
    )
    await backends.find((backend) => backend.pid === pid)?.message('draining')
    await tab.click('#ask-cancel')
    await tab.until(`${cellOf('web-1', 'State')}?.includes('draining')`)
    await tab.until(`document.querySelector('#change-list').innerText.includes('web-1')`)
    t.match(await tab.text('#announcer'), /web-1/, 'and it is shown')
    for (const upload of uploads) {
      upload.send('x')
      t.equal((await upload.answer()).status, 200, 'served to the end')
    }
    await tab.until(`!${rowOf('web-1')}`)
  })

  await t.test('reload shows its result, and the page continues with the next worker', async (t) => {
    const before = await broker.status()
    await tab.click('#reload')
    await tab.click('#ask-confirm')
    await tab.until(`document.querySelector('#ask-outcome').innerText === 'Reloaded.'`)
    t.match(await tab.text('#ask-log'), /program replaced[^]*reloaded/)
    const after = await broker.status()
    t.not(after.broker.id, before.broker.id)
    await tab.until(`document.querySelector('#broker').innerText.includes('worker ${after.broker.pid}')`)
    await tab.until(LIVE)
    await tab.press('Enter')
    await tab.until(`!${OPEN}`)

    writeFileSync(broker.configFile, '{')
    await tab.click('#reload')
    await tab.click('#ask-confirm')
    await tab.until(`document.querySelector('#ask-outcome').innerText.includes('continues as before')`)
    await tab.press('Enter')
    t.equal((await broker.status()).broker.id, after.broker.id)
  })

  await t.test('without an event stream it polls the status', async (t) => {
    // Proxies between browser and broker may not pass a stream through.
    const proxy = createServer((incoming, outgoing) => {
      if (incoming.url === '/api/v1/events') {
        outgoing.writeHead(502).end()
        return
      }
      const { method, headers, url = '/' } = incoming
      incoming.pipe(
        request(new URL(url, broker.admin), { method, headers }, (answer) => {
          outgoing.writeHead(answer.statusCode ?? 0, answer.headers)
          answer.pipe(outgoing)
        }),
      )
    })
    proxy.listen(0, '127.0.0.1')
    await once(proxy, 'listening')
    t.teardown(() => {
      proxy.close()
      proxy.closeAllConnections()
    })
    await tab.goto(`http://127.0.0.1:${(proxy.address() as AddressInfo).port}/`)
    await tab.until(`document.querySelector('#feed').dataset.state === 'polling'`)
    await tab.until(`${cellOf('web-2', 'State')}?.includes('ready')`)
    await startLoad(t, broker, { total: 20, concurrency: 4 })
    await tab.until(`Number(/at most ([\\d.,]+)$/.exec(${chartOf('web', 'Handoffs per second')})[1]) > 0`)
    await tab.goto('about:blank')
  })
  await tab.close()
})

void t.test('with a token, and with a broker that stops and starts again', { timeout: LIMIT }, async (t) => {
  const tokenFile = join(temporaryFolder(t), 'token')
  writeFileSync(tokenFile, 'open-sesame\n', { mode: 0o600 })
  const admin = { listen: '127.0.0.1:0', tokenFile }
  const broker = await startBroker(t, { config: { admin } })
  const tab = await (await chromium).open()

  await tab.goto(broker.admin)
  await tab.until(`document.querySelector('#sign-in').checkVisibility()`)
  t.equal(await tab.evaluate('document.activeElement.id'), 'token', 'it may be typed at once')
  t.notMatch(await tab.text('main'), /Backends/, 'nothing is shown without it')
  await tab.type('open-sesam')
  await tab.press('Enter')
  await tab.until(`document.querySelector('#token-problem').innerText === 'The token is wrong.'`)
  await tab.type('open-sesame')
  await tab.press('Enter')
  await tab.until(LIVE)
  await tab.until(`document.querySelector('[aria-labelledby="service-web"]')`)
  t.notOk(await tab.evaluate(`document.querySelector('#sign-in').checkVisibility()`))
  t.same(
    await tab.evaluate(
      `[localStorage.length, sessionStorage.length, document.cookie, location.href.includes('sesame'), document.querySelector('#token').value]`,
    ),
    [0, 0, '', false, ''],
    'the token is only in memory',
  )

  await broker.die()
  await tab.until(`document.querySelector('#lost').checkVisibility()`)
  t.match(await tab.text('#lost'), /does not answer; retrying/)
  t.match(await tab.text('#announcer'), /lost/)
  await startBroker(t, { config: { admin: { ...admin, listen: new URL(broker.admin).host } } })
  await tab.until(LIVE)
  t.notOk(await tab.evaluate(`document.querySelector('#lost').checkVisibility()`))
  t.match(await tab.text('#announcer'), /back/)
})
