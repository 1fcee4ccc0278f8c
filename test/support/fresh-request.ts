import http from 'node:http'

/**
 * A request over a connection of its own: status code and body. A kept connection (`fetch`) belongs to one worker, which closes it when it
 * leaves: a request that is sent at that moment fails, whoever the server is.
 */
export function freshRequest(
  url: string,
  options: Pick<http.RequestOptions, 'headers' | 'method'> = {},
): Promise<[number, string]> {
  return new Promise((resolve, reject) => {
    const request = http.request(url, { ...options, agent: false }, (response) => {
      let body = ''
      response.setEncoding('utf8')
      response.on('data', (chunk: string) => (body += chunk))
      response.on('error', reject)
      response.on('end', () => resolve([response.statusCode ?? 0, body]))
    })
    request.on('error', reject)
    request.end()
  })
}
