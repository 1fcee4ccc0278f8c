// A client for ws-chat.ts: sends the lines that are typed, and prints what comes. It never reconnects, so that one can see that it need not.
import { createInterface } from 'node:readline'
import { WebSocket } from 'ws'

const socket = new WebSocket(process.argv[2] ?? 'ws://127.0.0.1:8081')
const lines = createInterface({ input: process.stdin })

socket.on('message', (data: Buffer) => console.log(data.toString()))
socket.on('error', (error) => console.error(error.message))
socket.on('close', (code) => {
  console.log(`closed with code ${code}`)
  lines.close()
})
socket.on('open', () => {
  lines.on('line', (line) => socket.send(line))
  lines.on('close', () => socket.close())
})
