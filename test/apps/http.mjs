// https://nodejs.org/en/learn/getting-started/introduction-to-nodejs
import { createServer } from 'node:http'

const port = process.env.PORT ?? 3000

const server = createServer((request, response) => {
  const { remoteAddress, remotePort } = request.socket
  response.statusCode = 200
  response.setHeader('Content-Type', 'text/plain')
  response.end(`${process.pid} ${remoteAddress} ${remotePort}`)
})

server.listen(port, () => {
  console.log(`Server running at port ${port}`)
})
