// Abuse of a control socket by a process that may connect but not register: `crowd` keeps 200 silent connections,
// and redials for each one that is closed; `ask` sends HELLO 100 times, each for another service.
// Imports nothing from the repository: its user may not be able to read it.
import net from 'node:net'

const CROWD = 200
const QUESTIONS = 100
const PAUSE = 500
const [mode, control] = process.argv.slice(-2)
let dials = 0

function crowd() {
  const socket = net.connect(control)
  dials += 1
  if (dials === CROWD) console.log(JSON.stringify({ msg: 'crowded' }))
  socket.on('error', () => {})
  socket.on('close', () => setTimeout(crowd, PAUSE))
}

function ask(number) {
  if (number === QUESTIONS) return console.log(JSON.stringify({ msg: 'asked' }))
  const service = `${'s'.repeat(240)}${number}`
  const hello = { protocol: 1, capabilities: [], service, weight: 1, pid: number + 1, sdk: '' }
  const body = Buffer.from(`\u0001${JSON.stringify(hello)}`)
  const length = Buffer.alloc(4)
  length.writeUInt32LE(body.length)
  const socket = net.connect(control)
  socket.on('error', () => {})
  socket.on('close', () => ask(number + 1))
  socket.resume()
  socket.write(Buffer.concat([length, body]))
}

if (mode === 'crowd') for (let index = 0; index < CROWD; index++) crowd()
else ask(0)
