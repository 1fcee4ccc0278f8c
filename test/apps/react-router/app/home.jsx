export const loader = () => ({ pid: process.pid })

export default function Home({ loaderData }) {
  return <h1>Hello from {loaderData.pid}</h1>
}
