import type { APIRoute } from 'astro'

export const GET: APIRoute = ({ clientAddress }) => new Response(`${process.pid} ${clientAddress}`)
