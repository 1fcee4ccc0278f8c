import { once } from 'node:events'
import { WebSocket } from 'ws'
import type { Test } from 'tap'
import { eventually } from './eventually.ts'
import { Program, temporaryFolder } from './process.ts'

type Message = Record<string, unknown>

/**
 * Debian's Chromium in headless mode, controlled through the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/).
 * Has its own profile and does not outlive the test.
 */
export class Chromium {
  readonly #socket: WebSocket
  readonly #waiting = new Map<
    number,
    { resolve: (result: Message) => void; reject: (error: Error) => void }
  >()
  readonly #listeners: ((sessionId: string, method: string, params: Message) => void)[] = []
  #last = 0

  private constructor(socket: WebSocket) {
    this.#socket = socket
    socket.on('message', (data: Buffer) => this.#take(JSON.parse(data.toString()) as Message))
    socket.on('close', () => {
      for (const { reject } of this.#waiting.values()) reject(new Error('chromium has exited'))
      this.#waiting.clear()
    })
  }

  static async start(t: Test): Promise<Chromium> {
    const profile = temporaryFolder(t)
    const program = new Program(
      t,
      'chromium',
      [
        '--headless=new',
        // Its sandbox does not work as root.
        ...(process.getuid?.() === 0 ? ['--no-sandbox'] : []),
        '--remote-debugging-port=0',
        `--user-data-dir=${profile}`,
        '--no-first-run',
        '--disable-gpu',
        '--disable-dev-shm-usage',
        '--disable-extensions',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
        '--no-default-browser-check',
        'about:blank',
      ],
      // When killed, it leaves its own temporary folder behind.
      { group: true, env: { TMPDIR: profile } },
    )
    const line = await program.line((each) => each.includes('DevTools listening on'), 'its address')
    const socket = new WebSocket(line.slice(line.indexOf('ws://')), { perMessageDeflate: false })
    await once(socket, 'open')
    t.teardown(() => socket.terminate())
    return new Chromium(socket)
  }

  /** A tab. */
  async open(): Promise<Tab> {
    const { targetId } = await this.send('Target.createTarget', { url: 'about:blank' })
    const { sessionId } = await this.send('Target.attachToTarget', { targetId, flatten: true })
    const tab = new Tab(this, String(sessionId), String(targetId))
    this.#listeners.push((session, method, params) => {
      if (session === sessionId) tab.hear(method, params)
    })
    await tab.prepare()
    return tab
  }

  send(method: string, params: Message = {}, sessionId?: string): Promise<Message> {
    const id = ++this.#last
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject })
      this.#socket.send(JSON.stringify({ id, method, params, ...(sessionId && { sessionId }) }))
    })
  }

  #take({ id, method, params, result, error, sessionId }: Message): void {
    if (id === undefined) {
      for (const listener of this.#listeners) listener(String(sessionId), String(method), params as Message)
      return
    }
    const waiting = this.#waiting.get(id as number)
    this.#waiting.delete(id as number)
    if (error === undefined) waiting?.resolve(result as Message)
    else waiting?.reject(new Error(JSON.stringify(error)))
  }
}

/** A node of the accessibility tree: a control as a screen reader sees it. */
export interface Accessible {
  readonly role: string
  readonly name: string
}

/** Windows virtual key codes, which the protocol requires in addition to the name. */
const KEYS = { Tab: 9, Enter: 13, Escape: 27 } as const

export class Tab {
  /** Errors and warnings on the console: uncaught exceptions, failed loads, policy violations. */
  readonly complaints: string[] = []
  readonly #chromium: Chromium
  readonly #session: string
  readonly #target: string

  constructor(chromium: Chromium, session: string, target: string) {
    this.#chromium = chromium
    this.#session = session
    this.#target = target
  }

  async prepare(): Promise<void> {
    for (const domain of ['Page', 'Runtime', 'Log', 'Accessibility']) await this.send(`${domain}.enable`)
  }

  send(method: string, params: Message = {}): Promise<Message> {
    return this.#chromium.send(method, params, this.#session)
  }

  hear(method: string, params: Message): void {
    const { entry, type, args, exceptionDetails } = params as {
      entry?: { level: string; text: string; url?: string }
      type?: string
      args?: { value?: string; description?: string }[]
      exceptionDetails?: { text: string; exception?: { description?: string } }
    }
    if (method === 'Log.entryAdded' && entry !== undefined && ['error', 'warning'].includes(entry.level))
      this.complaints.push(`${entry.level}: ${entry.text} ${entry.url ?? ''}`)
    if (method === 'Runtime.consoleAPICalled' && ['error', 'warning', 'assert'].includes(type ?? ''))
      this.complaints.push(
        `${type}: ${args?.map(({ value, description }) => value ?? description).join(' ')}`,
      )
    if (method === 'Runtime.exceptionThrown')
      this.complaints.push(exceptionDetails?.exception?.description ?? exceptionDetails?.text ?? method)
  }

  async close(): Promise<void> {
    await this.#chromium.send('Target.closeTarget', { targetId: this.#target })
  }

  /** Resolves once the new document has loaded; it may not be idle yet. */
  async goto(url: string): Promise<void> {
    const { errorText } = (await this.send('Page.navigate', { url })) as { errorText?: string }
    if (errorText !== undefined) throw new Error(`${url}: ${errorText}`)
    await this.until(`document.readyState === 'complete'`)
  }

  /** The value of the expression, awaited and converted to JSON. */
  async evaluate<Value>(expression: string): Promise<Value> {
    const { result, exceptionDetails } = (await this.send('Runtime.evaluate', {
      expression,
      awaitPromise: true,
      returnByValue: true,
    })) as { result: { value: Value }; exceptionDetails?: { exception?: { description?: string } } }
    if (exceptionDetails !== undefined)
      throw new Error(`${expression}: ${exceptionDetails.exception?.description}`)
    return result.value
  }

  /** Polls at short intervals until the expression is true. */
  async until(expression: string, timeout?: number): Promise<void> {
    let text = ''
    const holds = async () => {
      try {
        if (await this.evaluate<boolean>(`Boolean(${expression})`)) return true
      } catch (error) {
        // The document is being replaced.
        text = String(error)
        return false
      }
      text = await this.evaluate<string>(`document.body?.innerText ?? ''`)
      return false
    }
    await eventually(holds, () => `${expression}\nof the page:\n${text}`, timeout)
  }

  /** The rendered text of the first matching element. */
  text(selector: string): Promise<string> {
    return this.evaluate(`document.querySelector(${JSON.stringify(selector)})?.innerText ?? ''`)
  }

  /** A mouse click in its centre: elements on top of it, or anything that blocks clicks, make a difference. */
  async click(selector: string): Promise<void> {
    const found = JSON.stringify(selector)
    await this.until(`document.querySelector(${found})?.checkVisibility()`)
    const [x, y] = await this.evaluate<[number, number]>(
      `(() => {
        const found = document.querySelector(${found})
        found.scrollIntoView({ block: 'center' })
        const { x, y, width, height } = found.getBoundingClientRect()
        return [x + width / 2, y + height / 2]
      })()`,
    )
    for (const type of ['mousePressed', 'mouseReleased'])
      await this.send('Input.dispatchMouseEvent', { type, x, y, button: 'left', clickCount: 1 })
  }

  async type(text: string): Promise<void> {
    await this.send('Input.insertText', { text })
  }

  async press(key: keyof typeof KEYS): Promise<void> {
    const shared = { key, code: key, windowsVirtualKeyCode: KEYS[key] }
    await this.send('Input.dispatchKeyEvent', {
      type: 'keyDown',
      ...shared,
      ...(key === 'Enter' && { text: '\r' }),
    })
    await this.send('Input.dispatchKeyEvent', { type: 'keyUp', ...shared })
  }

  /** All nodes of the accessibility tree that are not ignored. */
  async accessible(): Promise<Accessible[]> {
    const { nodes } = (await this.send('Accessibility.getFullAXTree')) as {
      nodes: { ignored: boolean; role?: { value: string }; name?: { value: string } }[]
    }
    return nodes
      .filter(({ ignored }) => !ignored)
      .map(({ role, name }) => ({ role: role?.value ?? '', name: name?.value ?? '' }))
  }

  async viewport(width: number, height: number): Promise<void> {
    const mobile = width < 500
    await this.send('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile })
  }

  async prefer(features: Readonly<Record<string, string>>): Promise<void> {
    await this.send('Emulation.setEmulatedMedia', {
      features: Object.entries(features).map(([name, value]) => ({ name, value })),
    })
  }

  /** PNG of the whole page. */
  async screenshot(): Promise<Buffer> {
    const options = { format: 'png', captureBeyondViewport: false }
    const { data } = await this.send('Page.captureScreenshot', options)
    return Buffer.from(String(data), 'base64')
  }
}
