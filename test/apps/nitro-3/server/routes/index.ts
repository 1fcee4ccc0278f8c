import { defineHandler } from 'nitro/h3'

export default defineHandler((event) => {
  const { remoteAddress, remotePort } = event.runtime!.node!.req.socket
  return `${process.pid} ${remoteAddress} ${remotePort}`
})
