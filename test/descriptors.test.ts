import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { LIMIT } from './support/limits.ts'
import { Program, root, temporaryFolder } from './support/process.ts'

// The programs of packages/native-sendmsg/README.md: each sender with each receiver.

const here = (name: string) => join(root, 'examples/descriptors', name)
const folder = temporaryFolder(t)
const peer = join(folder, 'peer')
execFileSync('gcc', ['-Wall', '-Wextra', '-Werror', '-o', peer, here('peer.c')], { stdio: 'pipe' })

const senders = {
  Node: [process.execPath, here('sender.mjs')],
  Python: ['python3', here('peer.py'), 'send'],
  C: [peer, 'send'],
}
const receivers = {
  Node: [process.execPath, here('receiver.mjs')],
  Python: ['python3', here('peer.py'), 'receive'],
  C: [peer, 'receive'],
}

for (const [from, send] of Object.entries(senders)) {
  for (const [to, receive] of Object.entries(receivers)) {
    if (from !== 'Node' && to !== 'Node') continue
    void t.test(`a file passed from ${from} to ${to}`, { timeout: LIMIT }, async (t) => {
      const name = `${from}-${to}`
      const file = join(folder, `${name}.txt`)
      writeFileSync(file, `from ${from} to ${to}`)
      const socket = join(folder, `${name}.sock`)
      const [program = '', ...args] = receive
      const receiver = new Program(t, program, [...args, socket])
      await receiver.line((line) => line === 'listening', 'it listens')
      const [command = '', ...more] = send
      const sender = new Program(t, command, [...more, socket, file])
      t.same(await sender.exited, { code: 0, signal: null })
      await receiver.line((line) => line === `a file: from ${from} to ${to}`, 'the content')
    })
  }
}
