// https://nodejs.org/api/https.html#httpscreateserveroptions-requestlistener
import { readFileSync } from 'node:fs'
import { createServer } from 'node:https'

const port = process.env.PORT ?? 8000

const options = {
  key: readFileSync(process.env.KEY_FILE),
  cert: readFileSync(process.env.CERT_FILE),
}

createServer(options, (request, response) => {
  const { remoteAddress, remotePort } = request.socket
  response.writeHead(200)
  response.end(`${process.pid} ${remoteAddress} ${remotePort}`)
}).listen(port)
