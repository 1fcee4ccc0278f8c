// What is measured, all in the same form.
import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as elapsed } from 'node:timers/promises'
import { SpeakingChild } from '../../test/programs/speaking-child.mjs'
import { program } from '../scratch.mjs'

/**
 * A running peer: clients connect to 127.0.0.1:`port`. `processes` are all whose CPU time a connection costs.
 *
 * @typedef {{
 *   name: string
 *   port: number
 *   processes: { role: 'broker' | 'backend', pid: number }[]
 *   stop: () => Promise<void>
 * }} Peer
 */

/** @typedef {{ backends?: number, bodyBytes?: number, handoff?: 'auto' | 'off' }} PeerOptions */

/** This machine does not have the peer, and cannot get it: its row says so by name. */
export class LeftOut extends Error {}

export const APP = program('bench/programs/app.mjs')

/** So many start at a time: each compiles its own code, and more of them would only wait for a processor. */
const AT_ONCE = 4
const START_TIMEOUT_MS = 20_000

/**
 * Processes of the app, serving when this resolves.
 *
 * @param {{ count?: number, mode: string, bodyBytes?: number, env?: NodeJS.ProcessEnv }} options
 */
export async function startApps({ count = 1, mode, bodyBytes, env = {} }) {
  /** @type {{ pid: number, port?: number }[]} */
  const apps = []
  const children = []
  while (children.length < count) {
    const batch = Array.from(
      { length: Math.min(AT_ONCE, count - children.length) },
      () => new SpeakingChild(APP, { env: { APP_MODE: mode, ...appEnvironment(bodyBytes), ...env } }),
    )
    children.push(...batch)
    for (const child of batch) apps.push(await child.heard('serving'))
  }
  return {
    apps,
    processes: apps.map(({ pid }) => ({ role: /** @type {const} */ ('backend'), pid })),
    async stop() {
      for (const child of children) child.kill('SIGKILL')
      await Promise.all(children.map(({ exited }) => exited))
    },
  }
}

/** @param {number | undefined} bodyBytes */
export const appEnvironment = (bodyBytes) =>
  bodyBytes === undefined ? {} : { BODY_BYTES: String(bodyBytes) }

/** Resolves once a process listens. @param {number} port */
export async function listening(port) {
  const deadline = performance.now() + START_TIMEOUT_MS
  for (;;) {
    const socket = connect(port, '127.0.0.1')
    try {
      await once(socket, 'connect')
      return
    } catch (error) {
      if (performance.now() > deadline) throw error
      await elapsed(20)
    } finally {
      socket.destroy()
    }
  }
}
