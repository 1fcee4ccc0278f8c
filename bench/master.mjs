// The master of a broker under measurement, as its operator sees it.
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as elapsed } from 'node:timers/promises'

/** Sends one line; resolves to everything received until the session ends. */
export function askMaster({ control }, line) {
  return new Promise((resolve, reject) => {
    let text = ''
    const socket = connect(join(control, '../master.sock'))
    socket.setEncoding('utf8')
    socket.on('data', (chunk) => (text += chunk))
    socket.on('error', reject)
    socket.on('end', () => resolve(text))
    socket.write(`${line}\n`)
  })
}

/** The pid of the serving worker, once it is the only one. */
export async function onlyWorker(broker) {
  for (;;) {
    const { workers } = JSON.parse(await askMaster(broker, 'status'))
    if (workers.length === 1 && workers[0].role === 'serving') return workers[0].pid
    await elapsed(5)
  }
}
