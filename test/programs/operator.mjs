// A session with the master at PATH, from another program: sends LINE, and prints everything received.
import { connect } from 'node:net'

const [path, line] = process.argv.slice(2)
const socket = connect(path)
socket.write(`${line}\n`)
let text = ''
socket.setEncoding('utf8')
socket.on('data', (chunk) => (text += chunk))
socket.on('end', () => console.log(JSON.stringify({ msg: 'answered', text })))
