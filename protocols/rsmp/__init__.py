"""RSMP, the Road Side Message Protocol of signal controllers: core 3.1.2 to 3.2.2, traffic-light SXL 1.1 to 1.2.1.

Source: RSMP Nordic, rsmp_core 3.2.2 and rsmp_sxl_traffic_lights 1.2.1. Section names in docstrings are those of the
core's chapter "Basic structure", unless another is named.

    messages        what is said
    codec           its bytes in each core version
    framing         form feeds
    exchange        one connection, either role: Version exchange, acknowledgements, watchdogs
    site_role       the site's end on top of it: alarms, subscriptions, commands, outgoing buffer
    site_terms, alarms, subscriptions, outgoing      its parts
    sxl             what a signal exchange list says of codes and their values
    tlc             the traffic-light list: all codes, types and ranges
    priority        M0022 and S0033 to and from the model
    signal_groups   the characters of S0001
"""
