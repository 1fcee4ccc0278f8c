// An app that prints BURST lines of SIZE bytes at once, then ten every EVERY milliseconds, and answers with its pid.
import { createServer } from 'node:http'

const { PORT, SIZE = 1024, EVERY = 100, BURST = 0 } = process.env
const filling = 'x'.repeat(Number(SIZE))
let number = 0

function print(count) {
  for (let index = 0; index < count; index++) console.log(`line ${process.pid} ${number++} ${filling} end`)
}

createServer((_request, response) => response.end(String(process.pid))).listen(
  Number(PORT),
  '127.0.0.1',
  () => {
    print(Number(BURST))
    setInterval(() => print(10), Number(EVERY))
  },
)
