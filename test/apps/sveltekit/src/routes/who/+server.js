export const GET = ({ getClientAddress, platform }) =>
  new Response(`${process.pid} ${getClientAddress()} ${platform.req.socket.remotePort}`)
