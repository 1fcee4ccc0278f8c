// An app that prints ten lines of SIZE bytes every EVERY milliseconds, and answers with its pid.
import { createServer } from 'node:http'

const { PORT, SIZE = 1024, EVERY = 100 } = process.env
const line = 'x'.repeat(Number(SIZE))
let number = 0

createServer((_request, response) => response.end(String(process.pid))).listen(Number(PORT), '127.0.0.1')
setInterval(() => {
  for (let index = 0; index < 10; index++) console.log(`line ${process.pid} ${number++} ${line} end`)
}, Number(EVERY))
