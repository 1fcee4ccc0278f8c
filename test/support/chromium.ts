import { type Browser, type CDPSession, chromium, type Page } from 'playwright-core'
import type { Test } from 'tap'
import { eventually } from './eventually.ts'
import { LIMIT } from './limits.ts'

/** Debian's: Playwright's own would have to be downloaded. */
const PROGRAM = '/usr/bin/chromium'

/** A browser without a window, with a profile of its own, that ends with the test. */
export class Chromium {
  readonly #browser: Browser

  private constructor(browser: Browser) {
    this.#browser = browser
  }

  /** @param args further switches of its command line */
  static async start(t: Test, args: readonly string[] = []): Promise<Chromium> {
    const browser = await chromium.launch({
      executablePath: PROGRAM,
      args: [...args],
      timeout: LIMIT,
      // The sandbox does not work for root.
      chromiumSandbox: process.getuid?.() !== 0,
    })
    t.teardown(() => browser.close())
    return new Chromium(browser)
  }

  /** A tab. */
  async open(): Promise<Tab> {
    const page = await this.#browser.newPage()
    page.setDefaultTimeout(LIMIT)
    return new Tab(page, await page.context().newCDPSession(page))
  }
}

/** A node of the accessibility tree: a control as a screen reader sees it. */
export interface Accessible {
  readonly role: string
  readonly name: string
}

export class Tab {
  /** Errors and warnings of the console: uncaught exceptions, failed loads, violations of the policy. */
  readonly complaints: string[] = []
  readonly #page: Page
  readonly #protocol: CDPSession

  constructor(page: Page, protocol: CDPSession) {
    this.#page = page
    this.#protocol = protocol
    page.on('pageerror', (error) => this.complaints.push(String(error)))
    page.on('console', (message) => {
      const { url } = message.location()
      if (['error', 'warning', 'assert'].includes(message.type()))
        this.complaints.push(`${message.type()}: ${message.text()} ${url}`)
    })
  }

  close(): Promise<void> {
    return this.#page.close()
  }

  /** Resolves when the new document is loaded. */
  async goto(url: string): Promise<void> {
    await this.#page.goto(url)
  }

  /** The value of an expression, awaited and as JSON. */
  evaluate<Value>(expression: string): Promise<Value> {
    return this.#page.evaluate<Value>(expression)
  }

  /** Evaluates an expression at short intervals until it is true. */
  async until(expression: string, timeout?: number): Promise<void> {
    let text = ''
    const holds = async () => {
      try {
        if (await this.evaluate<boolean>(`Boolean(${expression})`)) return true
        text = await this.evaluate<string>(`document.body?.innerText ?? ''`)
      } catch (error) {
        // The document is being replaced.
        text = String(error)
      }
      return false
    }
    await eventually(holds, () => `${expression}\nof the page:\n${text}`, timeout)
  }

  /** The rendered text of the first matching element. */
  text(selector: string): Promise<string> {
    return this.evaluate(`document.querySelector(${JSON.stringify(selector)})?.innerText ?? ''`)
  }

  /** Waits until the element is visible and enabled, and not covered by another one. */
  click(selector: string): Promise<void> {
    return this.#page.click(selector)
  }

  type(text: string): Promise<void> {
    return this.#page.keyboard.insertText(text)
  }

  press(key: 'Tab' | 'Enter' | 'Escape'): Promise<void> {
    return this.#page.keyboard.press(key)
  }

  /** Every node of the accessibility tree that is not ignored. */
  async accessible(): Promise<Accessible[]> {
    const { nodes } = await this.#protocol.send('Accessibility.getFullAXTree')
    return nodes
      .filter(({ ignored }) => !ignored)
      .map(({ role, name }) => ({ role: String(role?.value ?? ''), name: String(name?.value ?? '') }))
  }

  viewport(width: number, height: number): Promise<void> {
    return this.#page.setViewportSize({ width, height })
  }

  prefer(colorScheme: 'light' | 'dark'): Promise<void> {
    return this.#page.emulateMedia({ colorScheme })
  }
}
