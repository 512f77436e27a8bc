"""The whole system in one process, on a virtual clock, with every fault that one seed brings.

Nothing of the engine or the SDK is replaced but what lies outside of them: time, chance, the event
loop, and the way to the store. A seed decides everything, so a failure is repeated by its number.
"""
