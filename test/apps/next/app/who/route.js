export const dynamic = 'force-dynamic'

export function GET(request) {
  return new Response(`${process.pid} ${request.headers.get('x-forwarded-for')}`)
}
