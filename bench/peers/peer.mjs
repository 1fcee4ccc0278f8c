// The common interface of everything that is measured.
import { once } from 'node:events'
import { connect } from 'node:net'
import { setTimeout as elapsed } from 'node:timers/promises'
import { SpeakingChild } from '../../test/programs/speaking-child.mjs'
import { program } from '../scratch.mjs'

/**
 * A running peer: clients connect to 127.0.0.1:`port`. `processes` are all those that spend CPU time on a connection.
 *
 * @typedef {{
 *   name: string
 *   port: number
 *   processes: { role: 'broker' | 'backend', pid: number }[]
 *   stop: () => Promise<void>
 * }} Peer
 */

/** @typedef {{ backends?: number, bodyBytes?: number, handoff?: 'auto' | 'off' }} PeerOptions */

/** The peer is missing on this machine and cannot be installed; its row says so. */
export class LeftOut extends Error {}

export const APP = program('bench/programs/app.mjs')

/** Processes started at a time: each compiles its own code, so more would only compete for the CPU. */
const AT_ONCE = 4
const START_TIMEOUT_MS = 20_000

/**
 * Starts processes of the app; resolves once they listen.
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
    for (const child of batch) apps.push(await child.message('serving'))
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
