/** The status with the counts of all workers so far, which a worker's own status has not. */
export function withTotals({ listeners, services, ...status }, metrics) {
  const ofService = (series, name) => metrics.get(`baton_${series}{service="${name}"}`) ?? 0
  return {
    ...status,
    listeners: listeners.map((listener) => ({
      ...listener,
      accepted: metrics.get(`baton_connections_accepted_total{listener="${listener.name}"}`) ?? 0,
    })),
    services: services.map((service) => {
      const { name } = service
      const outcomes = { lost: 0 }
      let handedBack = 0
      for (const [series, value] of metrics) {
        const outcome = new RegExp(`^baton_connections_total\\{service="${name}",outcome="(\\w+)"\\}$`).exec(
          series,
        )
        if (outcome !== null) outcomes[outcome[1]] = value
        if (
          new RegExp(`^baton_connections_handed_back_total\\{service="${name}",.*result="taken"\\}$`).test(
            series,
          )
        )
          handedBack += value
      }
      const held = ofService('connections_held', name)
      const parked = ofService('connections_parked', name)
      return {
        ...service,
        outcomes,
        handedBack,
        held,
        parked,
        inFlight: ofService('handoffs_in_flight', name),
      }
    }),
  }
}
