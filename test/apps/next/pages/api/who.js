export default function handler(request, response) {
  response.status(200).send(`${process.pid} ${request.socket.remoteAddress} ${request.socket.remotePort}`)
}
