export default defineEventHandler((event) => {
  const { remoteAddress, remotePort } = event.node.req.socket
  return `${process.pid} ${remoteAddress} ${remotePort}`
})
