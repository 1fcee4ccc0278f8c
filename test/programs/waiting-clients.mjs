// COUNT clients that connect to PORT and wait silently until this process exits. A few connect at a time, so that none is
// lost in the listener's queue.
import { once } from 'node:events'
import net from 'node:net'

const AT_ONCE = 64
const [port, count] = process.argv.slice(-2).map(Number)

for (let begun = 0; begun < count; begun += AT_ONCE) {
  const clients = Array.from({ length: Math.min(AT_ONCE, count - begun) }, () =>
    net.connect(port, '127.0.0.1'),
  )
  await Promise.all(clients.map((client) => once(client, 'connect')))
}
console.log(JSON.stringify({ msg: 'waiting' }))
process.stdin.resume().on('end', () => process.exit())
