"""The gateway to online services: asks them within their limits and answers in Arrow."""
