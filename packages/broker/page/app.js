import { get, hasToken, useToken } from './api.js'
import { Changes } from './changes.js'
import { Connections } from './connections.js'
import { byId, setText } from './element.js'
import { Feed } from './feed.js'
import { age, timeOfDay } from './format.js'
import { History } from './history.js'
import { OutputDialog } from './output.js'
import { drainQuestion, QuestionDialog, reloadQuestion } from './question.js'
import { Services } from './services.js'
import { Totals } from './totals.js'

/** @import { Change, FeedState, HistoryAnswer, Sample } from './shapes.d.ts' */

/** @type {Readonly<Record<FeedState, string>>} */
const FEED_WORDS = {
  connecting: 'connecting',
  live: 'live',
  polling: 'polling every 2 s',
  lost: 'connection lost',
  locked: 'token needed',
}

const parts = {
  feed: byId('feed', HTMLElement),
  broker: byId('broker', HTMLElement),
  lost: byId('lost', HTMLElement),
  announcer: byId('announcer', HTMLElement),
  reload: byId('reload', HTMLButtonElement),
  signIn: byId('sign-in', HTMLElement),
  token: byId('token', HTMLInputElement),
  tokenProblem: byId('token-problem', HTMLElement),
  connections: byId('connections', HTMLElement),
  changes: byId('changes', HTMLElement),
  services: byId('services', HTMLElement),
}

const past = new History()
const question = new QuestionDialog()
const output = new OutputDialog()
const services = new Services(parts.services, {
  onDrain: (target) => question.ask(drainQuestion(target)),
  onOutput: (service) => output.open(service),
})
const connections = new Connections()
const changes = new Changes()
const totals = new Totals()

/** @type {FeedState} */
let state = 'connecting'
/** @type {Sample | undefined} */
let latest
/** The broker version that served this page. @type {string | undefined} */
let version

const feed = new Feed({ onSample, onChange, onState })

/** @param {Sample} sample */
function onSample(sample) {
  const first = latest === undefined
  latest = past.add(sample)
  if (first) {
    parts.connections.hidden = false
    parts.changes.hidden = false
    parts.reload.disabled = false
    connections.start()
    void showPast()
  }
  connections.offer(sample.status.services.map(({ name }) => name))
  // A hidden page is not drawn, but its samples are kept.
  if (first || !document.hidden) draw()
}

/** Charts begin with what the broker has recorded. A broker of an older version has nothing. */
async function showPast() {
  try {
    /** @type {HistoryAnswer} */
    const { services: recorded } = await get('api/v1/history')
    past.begin(recorded)
    draw()
  } catch {
    // They fill as the page stays open.
  }
}

function draw() {
  if (latest === undefined) return
  const { broker, services: all } = latest.status
  version ??= broker.version
  const up = age(broker.startedAt, Date.parse(latest.at))
  const parted = broker.state === 'running' ? '' : ` · ${broker.state}`
  const newer = broker.version === version ? '' : ' · reload this page'
  setText(parts.broker, `${broker.version} · worker ${broker.pid} · up ${up}${parted}${newer}`)
  totals.update(latest)
  services.update(latest, past)
  const trouble = state === 'lost' || all.some(({ held }) => held > 0)
  document.title = `${trouble ? '▲ ' : ''}Baton ${location.host}`
}

/** @param {Change} change */
function onChange(change) {
  changes.add(change)
  announce(change.text)
}

/** @param {FeedState} next */
function onState(next) {
  if (next === state) return
  const before = state
  state = next
  parts.feed.dataset['state'] = next
  setText(parts.feed, FEED_WORDS[next])
  parts.lost.hidden = next !== 'lost'
  document.body.classList.toggle('stale', next === 'lost')
  parts.signIn.hidden = next !== 'locked'
  if (next === 'lost') {
    const since = latest === undefined ? '' : ` The figures are from ${timeOfDay(latest.at)}.`
    setText(parts.lost, `The broker does not answer; retrying.${since}`)
    announce('Connection to the broker lost')
  }
  if (next === 'locked') {
    setText(parts.tokenProblem, hasToken() ? 'The token is wrong.' : '')
    parts.token.focus()
  }
  if (before === 'lost' && (next === 'live' || next === 'polling'))
    announce('Connection to the broker is back')
  draw()
}

/**
 * Read out by screen readers. For infrequent changes that the user did not make; figures are never announced.
 *
 * @param {string} text
 */
function announce(text) {
  setText(parts.announcer, text)
}

byId('token-form', HTMLFormElement).addEventListener('submit', (event) => {
  event.preventDefault()
  useToken(parts.token.value.trim())
  parts.token.value = ''
  feed.start()
})
parts.reload.addEventListener('click', () => question.ask(reloadQuestion()))
document.addEventListener('visibilitychange', draw)
feed.start()
