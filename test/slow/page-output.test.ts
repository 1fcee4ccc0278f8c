import t from 'tap'
import { Chromium } from '../support/chromium.ts'
import { ask, startPrinting } from '../support/kept-logs.ts'
import { LIMIT } from '../support/limits.ts'

// The output of managed backends on the status page, in a real browser.

const OPEN = `document.querySelector('#output').open`
const LINES = `[...document.querySelectorAll('.output-line')].map((line) => line.innerText.replace(/^\\S+ /, '')).filter((line) => !line.includes('baton: '))`

void t.test('the page shows what backends have printed, and goes on', { timeout: LIMIT }, async (t) => {
  const [chromium, broker] = await Promise.all([Chromium.start(t), startPrinting(t, undefined)])
  await ask(broker, '/err', 'api')
  const tab = await chromium.open()
  await tab.viewport(1280, 800)
  await tab.goto(broker.admin)
  await tab.click('button[aria-label="Output of api"]')
  await tab.until(OPEN)
  await tab.until(`${LINES}.length === 2`)
  t.same(await tab.evaluate(LINES), ['api.1 stdout ready', 'api.1 stderr an error'])
  await ask(broker, '/print?from=7&count=1', 'api')
  await tab.until(`${LINES}.length === 3`)
  t.same(await tab.evaluate(`${LINES}.at(-1)`), 'api.1 stdout line 7 xxxxxxx')

  await tab.viewport(320, 700)
  t.equal(await tab.evaluate('document.documentElement.scrollWidth'), 320, 'it fits a phone')
  await tab.press('Escape')
  await tab.until(`!${OPEN}`)

  await tab.click('button[aria-label="Output of outside"]')
  await tab.until(`document.querySelector('#output-problem').innerText.startsWith('Nothing is kept')`)
  t.same(await tab.evaluate(LINES), [])
  t.same(tab.complaints, [])
})
