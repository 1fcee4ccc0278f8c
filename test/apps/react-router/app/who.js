export const loader = () => new Response(`${process.pid}`)
